"""An agent of pydantic-ai with a typed result, against `sgen serve`.

sgen serve &
pip install "pydantic-ai-slim[openai]"
python examples/agent.py [http://127.0.0.1:8000]
"""

import sys
from typing import Literal

import openai
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings


class Advice(BaseModel):
    """What to wear."""

    clothes: Literal["coat", "raincoat", "shirt"]


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    served = openai.OpenAI(base_url=f"{url}/v1", api_key="none").models.list().data[0].id
    model = OpenAIChatModel(served, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    agent = Agent(model, output_type=Advice, model_settings=ModelSettings(temperature=0))
    print(agent.run_sync("It rains in Paris, at 12 degrees. What shall I wear?").output)


if __name__ == "__main__":
    main()
