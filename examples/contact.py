"""A plain (not async) program: text in, a dataclass out.  `.value` waits for what it needs.

python examples/contact.py
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

import sgen


@dataclass
class Contact:
    name: Annotated[str, Field(pattern=r"^[A-Z][a-z]{1,15} [A-Z][a-z]{1,15}$")]
    email: Annotated[str, Field(pattern=r"^[a-z]{1,20}@[a-z]{1,20}\.(org|com|net)$")]


@sgen.program
def contact(s: sgen.State, text: str) -> Contact:
    s.user(f"Find the contact in this text: {text}")
    with s.assistant():
        found = s.gen(Contact, name="contact", max_tokens=60)
    return found.value


def main() -> None:
    run = contact.run(text="Write to Ada Lovelace, ada@example.org, about the engine.")
    print(run.output)


if __name__ == "__main__":
    main()
