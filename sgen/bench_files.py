"""The files that `sgen bench` writes: tried before anything is measured, and never half written."""

from __future__ import annotations

import os
from pathlib import Path

from sgen.errors import InvalidRequestError


def check_writable(file: str, option: str) -> None:
    """InvalidRequestError, naming the option, if the file could not be written; it stays as it is.

    A new file in its folder is what writing needs, so one is made, and removed again.
    """
    target = Path(file).resolve()
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        if _is_replaced(target):
            part = _part(target)
            part.touch(exist_ok=True)
            part.unlink()
        elif not os.access(target, os.W_OK):
            raise PermissionError("it may not be written")
    except OSError as error:
        raise _refused(file, option, error) from None


def write(file: str, option: str, text: str) -> None:
    """Replace the file in one step, keeping a link that leads to it; errors as above."""
    target = Path(file).resolve()
    try:
        if not _is_replaced(target):
            target.write_text(text, encoding="utf-8")
            return
        part = _part(target)
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(file, option, error) from None


def _is_replaced(target: Path) -> bool:
    """Whether a new file takes its place; a pipe or a terminal is written to instead."""
    return not target.exists() or target.is_file()


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _refused(file: str, option: str, error: OSError) -> InvalidRequestError:
    return InvalidRequestError(
        f"{option} cannot be written to {file}: {error.strerror or error}",
        param=option.lstrip("-"),
        hint="name a file in a folder that is there and that you may write to",
    )
