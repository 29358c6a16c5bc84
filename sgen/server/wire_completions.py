"""The body of POST /v1/completions.  What is not here is ignored, and counted."""

from __future__ import annotations

from sgen.server.wire_sampling import GenerationRequest


class CompletionRequest(GenerationRequest, kw_only=True):
    """`prompt`: a text, texts, token ids, or lists of them."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
