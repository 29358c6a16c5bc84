#!/bin/sh
# A JSON object that is valid by a schema, with curl:  sgen serve & sh examples/serve_curl.sh
curl --silent --show-error --fail-with-body "${1:-http://127.0.0.1:8000}/v1/chat/completions" \
    --header 'Content-Type: application/json' --data '{
        "messages": [{"role": "user", "content": "Describe Paris."}],
        "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 20},
                "capital": {"type": "boolean"}
            },
            "required": ["name", "capital"],
            "additionalProperties": false
        }}}
    }'
