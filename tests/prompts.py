"""Twenty prompts of our own, from a few tokens to about 1,500: prose, code, tables, dialogue."""

from __future__ import annotations

import random

NAMES = ["Ada", "Bela", "Chidi", "Dana", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jun"]
THINGS = ["lamps", "maps", "violins", "apples", "letters", "coins", "boats", "seeds", "kites"]
PLACES = ["Lisbon", "Oslo", "Quito", "Hanoi", "Tartu", "Accra", "Perth", "Izmir", "Lima"]
WORK = ["repairs clocks", "teaches chemistry", "grows tomatoes", "writes songs", "sails"]

SHORT = [
    "Hello",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea,",
    '{"name": "Ada", "born": 1815, "fields": ["mathematics",',
    "| city | country | population |\n|---|---|---|\n| Oslo |",
    "Q: What is 17 times 3?\nA:",
    "Les trains du matin sont souvent",
]


def problems(rng: random.Random, count: int) -> str:
    lines = []
    for _ in range(count):
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        a, b = rng.randint(2, 60), rng.randint(2, 40)
        lines.append(f"Q: {name} has {a} {thing} and finds {b} more. How many {thing} are there?")
        lines.append(f"A: {a} + {b} = {a + b}. There are {a + b} {thing}.")
    return "\n".join([*lines, f"Q: {rng.choice(NAMES)} has {rng.randint(2, 60)} coins and"])


def people(rng: random.Random, count: int) -> str:
    lines = [
        f"{rng.choice(NAMES)} was born in {rng.choice(PLACES)} in {rng.randint(1900, 2005)}, "
        f"{rng.choice(WORK)}, and once sold {rng.randint(3, 900)} {rng.choice(THINGS)} in a day."
        for _ in range(count)
    ]
    return " ".join([*lines, "The youngest of them"])


def table(rng: random.Random, count: int) -> str:
    lines = ["id,name,city,amount"]
    for i in range(count):
        amount = rng.randint(100, 99999) / 100
        lines.append(f"{1000 + i},{rng.choice(NAMES)},{rng.choice(PLACES)},{amount:.2f}")
    return "\n".join([*lines, f"{1000 + count},"])


def dialogue(rng: random.Random, count: int) -> str:
    a, b = rng.sample(NAMES, 2)
    lines = []
    for _ in range(count):
        place, thing = rng.choice(PLACES), rng.choice(THINGS)
        lines.append(f"{a}: Do you still have the {thing} from {place}?")
        lines.append(f"{b}: I gave {rng.randint(2, 9)} of the {thing} away last year.")
    return "\n".join([*lines, f"{a}:"])


def prompts() -> list[str]:
    rng = random.Random(7)
    makers = (problems, people, table, dialogue)
    sizes = (3, 6, 12, 24, 30)
    long = [make(rng, size) for size in sizes for make in makers]
    return SHORT + long[: 20 - len(SHORT) - 2] + [problems(rng, 33), people(rng, 44)]
