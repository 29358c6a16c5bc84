"""Programs for a type checker: `test_typing.py` compares what it reveals with the comments."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypedDict, reveal_type

import msgspec
from pydantic import BaseModel

from sgen.frontend import Ref, State, choices, gen, json_schema, program, regex, select


class City(BaseModel):
    name: str
    population: int


class Point(msgspec.Struct):
    x: int


@dataclass
class Book:
    title: str


class Row(TypedDict):
    id: int


class Mood(Enum):
    GOOD = "good"


@program
async def chat(s: State, q1: str, q2: str) -> str:
    s.system("You are terse.")
    s.user(q1)
    with s.assistant():
        a = s.gen(max_tokens=64)
    s.user(f"{q2} (you said: {a})")
    with s.assistant():
        b = s.gen(max_tokens=64, stop="\n")
    reveal_type(b)  # Ref[str]
    return await b


@program
async def types(s: State, doc: str) -> list[City]:
    s += "A: " + gen("a", int, max_tokens=3) + select("b", ["x", "y"]) + f"{doc}"
    reveal_type(s.gen(City))  # Ref[City]
    reveal_type(s.gen(list[City], finish="valid", max_tokens=400))  # Ref[list[City]]
    reveal_type(s.gen(Point | None))  # Ref[Point | None]
    reveal_type(s.gen(Book))  # Ref[Book]
    reveal_type(s.gen(Row))  # Ref[TypedDict(Row, {'id': int})]
    reveal_type(s.gen(Mood))  # Ref[Mood]
    reveal_type(s.gen(Literal["pos", "neg"]))  # Ref[Literal['pos'] | Literal['neg']]
    reveal_type(s.gen(bool))  # Ref[bool]
    reveal_type(s.gen(tuple[int, str]))  # Ref[tuple[int, str]]
    reveal_type(s.gen(regex(r"\d+")))  # Ref[str]
    reveal_type(s.gen(choices(["a"])))  # Ref[str]
    reveal_type(s.gen(json_schema({})))  # Ref[Any]
    reveal_type(s.select([1, 2], by="mean"))  # Ref[int]
    reveal_type(s.select(list(Mood)))  # Ref[Mood]
    reveal_type(s["a"])  # Ref[Any]
    value = await s.gen(City)
    reveal_type(value)  # City
    return [value]


@program
async def tot(s: State, problem: str) -> str:
    s.user(problem)
    async with s.fork(3) as bs:

        async def go(b: State, i: int) -> tuple[int, str]:
            with b.assistant():
                plan = b.gen(max_tokens=80)
            score = b.gen(int)
            return await score, await plan

        scored = await bs.gather(go)
        reveal_type(scored)  # list[tuple[int, str]]
        reveal_type(await bs.gather(lambda b, i: b.gen(max_tokens=60)))  # list[str]
        refs: list[Ref[str]] = [b.gen() for b in bs]
        bs[0] += "more"
        reveal_type(bs[1:])  # list[State]
    answer = await chat(s, "a", q2="b")
    reveal_type(answer)  # str
    async for piece in refs[0].partials():
        reveal_type(piece)  # str
    return max(scored)[1]


@program
def plain(s: State, n: int = 3) -> int:
    s += "n: "
    value = s.gen(int).value
    reveal_type(value)  # int
    reveal_type(chat(s, "a", "b").value)  # str
    return value


reveal_type(chat.run(q1="a", q2="b").output)  # str
reveal_type(types.run("x").output)  # list[City]
reveal_type(plain)  # Program[[n: int =], int]
reveal_type(plain.with_options(seed=3).run().output)  # int
reveal_type(chat.compile().run("a", "b").output)  # str
reveal_type(chat.compile(q1="a").run(q2="b").output)  # str
reveal_type([run.output for run in types.map([{"doc": "x"}])])  # list[list[City]]
reveal_type(next(plain.map([], return_exceptions=True)))  # Run[int] | Exception
reveal_type([event.delta for event in plain.stream()])  # list[str]


async def main() -> None:
    run = await chat.arun("a", q2="b")
    reveal_type(run.output)  # str


def wrong(s: State, ref: Ref[str]) -> None:
    chat.run(q1=3, q2="b")  # error: arg-type
    chat.run("a")  # error: call-arg
    s.gen(temprature=1)  # error: call-overload
    s.gen(max_tokens="3")  # error: call-overload
    s += 5  # error: arg-type
    s.fork("3")  # error: arg-type
    s.select(["a"], by="best")  # error: arg-type
    if ref < "x":  # error: operator
        return
    len(ref)  # error: arg-type
