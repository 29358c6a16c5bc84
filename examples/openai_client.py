"""The openai package with a pydantic model, against `sgen serve`.

sgen serve &
pip install openai
python examples/openai_client.py [http://127.0.0.1:8000]
"""

import sys
from typing import Literal

import openai
from pydantic import BaseModel, Field


class Ticket(BaseModel):
    title: str = Field(max_length=40)
    severity: Literal["low", "medium", "high"]
    minutes: int = Field(ge=1, le=600)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    done = client.chat.completions.parse(
        model="",  # the one that is served
        messages=[{"role": "user", "content": "Nobody in our office can log in since 9:00!"}],
        response_format=Ticket,
        temperature=0,
    )
    print(done.choices[0].message.parsed)


if __name__ == "__main__":
    main()
