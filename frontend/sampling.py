"""The sampling parameters of one generation: what the call says, then what the run says.

A wrong name, type or range is refused where `gen` is called.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec

from sgen.errors import InvalidRequestError, ProgramError
from sgen.frontend.recording import Options
from sgen.protocol import SamplingParams


class Sampling(TypedDict, total=False):
    """The parameters of `gen`; None is the same as leaving one out.

    Their meanings, ranges and defaults are those of `sgen.protocol.SamplingParams`.  Without
    `max_tokens` a generation ends where its grammar, the model or the context ends.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    logprobs: int | None
    finish: Literal["valid", "truncate"] | None


def sampling_params(
    given: Mapping[str, Any], options: Options, branch: tuple[int, ...], ordinal: int
) -> SamplingParams:
    """The parameters of a branch's generation number `ordinal`."""
    known = Sampling.__annotations__
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ProgramError(
                f"gen has no parameter {name!r}",
                hint=f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}",
            )
    values = {name: value for name, value in given.items() if value is not None}
    if isinstance(values.get("stop"), str):
        values["stop"] = (values["stop"],)
    if options.temperature is not None:
        values.setdefault("temperature", options.temperature)
    if options.max_tokens is not None:
        values.setdefault("max_tokens", options.max_tokens)
    if options.seed is not None:
        values.setdefault("seed", _derived_seed(options.seed, branch, ordinal))
    return _convert(values)


def _convert(values: dict[str, Any]) -> SamplingParams:
    try:
        return msgspec.convert(values, SamplingParams)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InvalidRequestError):
            raise error.__cause__ from None
        message, _, place = str(error).partition(" - at `$.")
        param = place.rstrip("`").split("[")[0]
        raise InvalidRequestError(
            f"{param}: {message}, not {values.get(param)!r}", param=param
        ) from None


def _derived_seed(seed: int, branch: tuple[int, ...], ordinal: int) -> int:
    """A seed of its own for each generation of a run (branches with one seed would all generate
    the same), the same in every run with that seed."""
    digest = hashlib.blake2b(repr((seed, branch, ordinal)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
