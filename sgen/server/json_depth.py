"""How deeply JSON text nests, found without a stack: decoders that recurse stay out of danger."""

from __future__ import annotations

import numpy as np

from sgen.server.errors import APIError


def check_depth(body: bytes, limit: int) -> None:
    """APIError 400 for JSON text in which more than `limit` arrays and objects are inside each
    other.  Text that is no JSON passes or not, but costs no more: one pass over its bytes."""
    if body.count(b"[") + body.count(b"{") > limit and depth(body) > limit:
        raise APIError(400, f"the body nests deeper than {limit}", code="invalid_json")


def depth(body: bytes) -> int:
    """The most arrays and objects that are inside each other, strings left aside."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    text = np.frombuffer(body, dtype=np.uint8)
    outside = np.cumsum(text == ord('"'), dtype=np.int32) & 1 == 0
    steps = np.zeros(len(text), dtype=np.int8)
    steps[outside & ((text == ord("[")) | (text == ord("{")))] = 1
    steps[outside & ((text == ord("]")) | (text == ord("}")))] = -1
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))
