"""DSPy: its markers in the prompt, and its JSON adapter; a small model may miss the markers, so
what is asked is that the program ran and its texts came from the server."""

from __future__ import annotations

import contextlib
import sys

import dspy
from cases import BASE, KEY, MODEL, QUESTION, case, run

model = dspy.LM(
    f"openai/{MODEL}", api_base=BASE, api_key=KEY, max_tokens=60, cache=False, num_retries=0
)


@case
def text() -> None:
    assert model(QUESTION)[0]


@case
def predict_chat() -> None:
    _predict(dspy.ChatAdapter())


@case
def predict_json() -> None:
    _predict(dspy.JSONAdapter())


def _predict(adapter: dspy.Adapter) -> None:
    before = len(model.history)
    # A text without the markers is said to be one, as it should be.
    missed = contextlib.suppress(dspy.utils.exceptions.AdapterParseError)
    with missed, dspy.context(lm=model, adapter=adapter):
        assert isinstance(dspy.Predict("question -> answer")(question=QUESTION).answer, str)
    calls = model.history[before:]
    assert calls
    assert all(call["outputs"] for call in calls)
    assert all(call["usage"]["completion_tokens"] > 0 for call in calls)


if __name__ == "__main__":
    sys.exit(run())
