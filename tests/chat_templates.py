"""Chat templates in the shapes of known models' ones, and a tokenizer of bytes to go with them."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from sgen.runtime.tokenizer import Tokenizer, tokenizer_from_folder

SPECIAL = ("<|im_start|>", "<|im_end|>", "[TOOL_CALLS]", "[INST]", "</s>")

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Qwen 2.5's and Hermes's shape: definitions in the system message, calls in elements.
HERMES = """
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for m in messages if m.role != 'system' %}
{%- if m.role == 'tool' %}<|im_start|>user
<tool_response>{{ m.content }}</tool_response><|im_end|>
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}
{%- for call in m.tool_calls %}{% set call = call.function %}
<tool_call>
{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Llama 3's: one call a message, tools beside the first user message, results as JSON.
LLAMA3 = """
{%- set tools = tools or none %}
{%- if messages[0].role == 'system' %}<|im_start|>system {{ messages[0].content | trim }}<|im_end|>
{%- set messages = messages[1:] %}{% endif %}
{%- if tools %}
{%- if not messages %}{{ raise_exception('no user message') }}{% endif %}
{%- set first = messages[0].content | trim %}{% set messages = messages[1:] %}<|im_start|>user
{% for tool in tools %}{{ tool | tojson(indent=4) }}
{% endfor %}{{ first }}<|im_end|>{% endif %}
{%- for m in messages %}
{%- if 'tool_calls' in m %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}
{%- set call = m.tool_calls[0].function %}<|im_start|>assistant
{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|im_end|>
{%- elif m.role == 'tool' %}<|im_start|>ipython
{% if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}
{%- else %}{{ m.content }}{% endif %}<|im_end|>
{%- else %}<|im_start|>{{ m.role }}
{{ m.content | trim }}<|im_end|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Mistral 7B v0.3's: tools before the last user message, ids of nine characters, strict turns.
MISTRAL = """
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools is not none and tools and m == users[-1] %}[AVAILABLE_TOOLS] {{ tools | tojson }}
{%- endif %}[INST] {{ m.content }}[/INST]
{%- elif m.tool_calls is defined %}[TOOL_CALLS] [
{%- for call in m.tool_calls %}{% set out = call.function | tojson %}{{ out[:-1] }}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- ', "id": "' + call.id + '"}' }}{% if not loop.last %}, {% endif %}{% endfor %}]</s>
{%- elif m.role == 'assistant' %} {{ m.content | trim }}</s>
{%- elif m.role == 'tool' %}[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "
{{- m.tool_call_id }}"}[/TOOL_RESULTS]
{%- else %}{{ raise_exception('only user, assistant and tool') }}{% endif %}
{%- endfor %}"""

# Gemma's: no system role, turns that take turns, text trimmed.
GEMMA = """
{%- for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turn') }}{% endif %}
{{- '<|im_start|>' + ('model' if m.role == 'assistant' else m.role) }}
{{ m.content | trim }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>model
{% endif %}"""

# Qwen 3's: reasoning is a field of its own, shown only behind the last question.
QWEN3 = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and m.reasoning_content is string and loop.index0 > ns.last -%}
<think>
{{ m.reasoning_content.strip('\\n') }}
</think>

{% endif %}{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}
{%- else %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
{% endif %}"""

# DeepSeek R1's distills: earlier reasoning is cut out, and the prompt opens it.
R1 = """
{%- for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<|im_start|>' + content + '<|im_end|>' }}{% else %}{{ m.role }}: {{ m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|><think>
{% endif %}"""


def byte_tokenizer(folder: Path, template: str) -> Tokenizer:
    """256 bytes and the special tokens of SPECIAL."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    built = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = tokenizers.decoders.ByteLevel()
    built.add_special_tokens([tokenizers.AddedToken(name) for name in SPECIAL])
    built.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template)
    return tokenizer_from_folder(folder, 256 + len(SPECIAL))
