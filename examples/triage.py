"""Triage a support ticket: one choice, one typed report, and three ideas side by side.

sgen run examples/triage.py:triage --arg ticket="The app crashes when I log in."
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

import sgen


class Report(BaseModel):
    summary: Annotated[str, Field(max_length=120)]
    team: Literal["billing", "accounts", "infrastructure"]
    affected_users: Annotated[int, Field(ge=1, le=100_000)]
    urgent: bool


@sgen.program
async def triage(s: sgen.State, ticket: str) -> Report:
    s.system("You triage support tickets. Answer briefly.")
    s.user(ticket)
    with s.assistant():
        s += "Severity: "
        s.select(["low", "medium", "high"], name="severity")
        s += "\nReport: "
        report = s.gen(Report, name="report", max_tokens=120)
    s.user("Suggest one next step, in one sentence.")
    async with s.fork(3) as branches:  # they share all that was said so far

        async def idea(b: sgen.State, i: int) -> str:
            with b.assistant():
                text = b.gen(name="idea", max_tokens=40, stop="\n", temperature=0.8, seed=i)
            return await text

        await branches.gather(idea)
    return await report


if __name__ == "__main__":
    print(triage.run(ticket="The app crashes when I log in.").output)
