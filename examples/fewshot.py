"""Many rows behind one few-shot prefix: it is computed once, and every answer is a number.

python examples/fewshot.py
"""

import sgen

SHOTS = """Answer with a number.
Q: There are 3 cars and 2 more arrive. How many cars are there?
A: 5
Q: Leah had 32 chocolates and ate 35 of her sister's 42. How many of the 42 are left?
A: 7
Q: A field has 4 rows of 6 trees. How many trees are there?
A: 24
"""
QUESTIONS = [
    "Tom has 7 apples and buys 5. How many does he have?",
    "A box holds 10 pens. How many pens are in 3 boxes?",
    "Of 9 birds, 4 fly away. How many stay?",
    "Ann reads 12 pages a day. How many pages does she read in 2 days?",
]


@sgen.program
async def answer(s: sgen.State, question: str) -> int:
    s += SHOTS
    s += f"Q: {question}\nA: "
    return await s.gen(int, max_tokens=6)


def main() -> None:
    runs = list(answer.map([{"question": q} for q in QUESTIONS], concurrency=64))
    for question, run in zip(QUESTIONS, runs, strict=True):
        print(f"{run.output:>6}  {question}")
    cached = sum(r.usage.cached_tokens for r in runs)
    print(f"{cached} of {sum(r.usage.prompt_tokens for r in runs)} prompt tokens from the cache")


if __name__ == "__main__":
    main()
