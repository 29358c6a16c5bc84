"""Downloads that resume: a cut one goes on where it stopped, and nothing unchecked is kept."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import OpenerDirector, Request

_CHUNK = 1 << 18  # bytes
_ATTEMPTS = 5  # in a row without a single byte
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class CutError(OSError):
    """The connection ended before the file did; worth another try."""


class RefusedError(OSError):
    """The server or the disk says no; another try would change nothing."""


def is_final(error: Exception) -> bool:
    """Whether trying again is in vain: the server's answer is no, or the disk's is."""
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 429)
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def download(
    opener: OpenerDirector,
    make_request: Callable[[], Request],
    part: Path,
    *,
    limit: int,
    timeout: float,
    progress: Callable[[int, int], None],
    pause: float = 1.0,
) -> None:
    """Bring a file into `part`, going on after the bytes that are there.

    A connection that is cut is taken up again, after `pause` seconds, as long as bytes come.
    What is in `part` afterwards is as long as the server said; the caller checks its hash.
    OSError: the server cannot be reached, refuses, or sends more than `limit` bytes, or the disk
    does not take them.
    """
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(opener, make_request(), part, limit, timeout, progress)
            return
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, RefusedError) or is_final(error):
                raise
            last = error
        grew = part.exists() and part.stat().st_size > before
        failures = 0 if grew else failures + 1
        if failures >= _ATTEMPTS:
            raise OSError(f"{type(last).__name__}: {last}") from last
        time.sleep(pause * failures)


def _fetch(
    opener: OpenerDirector,
    request: Request,
    part: Path,
    limit: int,
    timeout: float,
    progress: Callable[[int, int], None],
) -> None:
    """One connection's worth of the file."""
    have = part.stat().st_size if part.exists() else 0
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = opener.open(request, timeout=timeout)
    except HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # the file is whole already
        part.unlink()
        raise CutError("the server's file is another one than before") from error
    with answer:
        resumed = answer.status == 206
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if resumed and not (match and int(match[1]) == have):
            part.unlink()
            raise CutError("the server sent another part of the file than was asked for")
        done = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length is not None and length.isdigit() else 0
        if total > limit:
            raise RefusedError(f"the file has {total} bytes, more than {limit}")
        with part.open("ab" if resumed else "wb") as file:
            done = _copy(answer, file, done, total, limit, progress)
        if done < total:
            raise CutError(f"the connection ended after {done} of {total} bytes")


def _copy(
    answer: http.client.HTTPResponse,
    file: BinaryIO,
    done: int,
    total: int,
    limit: int,
    progress: Callable[[int, int], None],
) -> int:
    while chunk := answer.read(_CHUNK):
        file.write(chunk)
        done += len(chunk)
        if done > limit:
            raise RefusedError(f"the server sends more than {limit} bytes")
        progress(done, max(total, done))
    return done
