"""The process that compiles grammars: `python -m sgen.grammars.compile_worker SECONDS MEGABYTES`.

Standard input is a socket, on which requests and outcomes follow each other; at its end, hence at
the end of the process at the other side, this one ends.  While it compiles, memory beyond what it
had at the start is limited, and an alarm ends it if the other side, which should, is gone.
Neither torch nor the runtime is imported: a start takes about 0.4 s, a third of it numpy.
"""

from __future__ import annotations

import gc
import resource
import signal
import socket
import sys
import warnings
from pathlib import Path

import msgspec

from sgen.grammars.native import library
from sgen.grammars.outcome import (
    HELLO,
    OUT_OF_MEMORY,
    Answer,
    Outcome,
    Refused,
    outcome_of,
    receive,
    send,
)
from sgen.protocol import GrammarSpec


def serve(connection: socket.socket, seconds: float, megabytes: int) -> None:
    """Answer requests until there are no more."""
    gc.collect()
    gc.freeze()  # what is there now stays
    base, allowed = _memory(), megabytes << 20
    if base:
        resource.setrlimit(resource.RLIMIT_AS, (base + allowed, base + allowed))
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(GrammarSpec)
    send(connection, HELLO)
    while (request := receive(connection)) is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)
        outcome = _outcome(decoder, request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        worn = outcome is OUT_OF_MEMORY or _memory() > base + allowed // 4
        send(connection, encoder.encode(Answer(outcome, worn)))


def _outcome(decoder: msgspec.msgpack.Decoder[GrammarSpec], request: bytes) -> Outcome:
    try:
        spec = decoder.decode(request)
    except msgspec.ValidationError as error:
        return Refused(f"this is no GrammarSpec: {error}", "spec")
    return outcome_of(spec)


def _memory() -> int:
    """Bytes of this process's address space; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 0
    return pages * resource.getpagesize()


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other side has heard of it, or will
        library()  # now, since it may have to be compiled
    with socket.socket(fileno=0) as connection:
        serve(connection, float(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
