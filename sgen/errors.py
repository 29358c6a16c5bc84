"""Every error that sgen raises for a user's mistake or the world's: message, place, remedy.

A leaf module: every layer may import it.  `assert` is for our own invariants, these are for
everybody else's.  `str(error)` is one text of what is wrong, where, and what to do.
"""

from __future__ import annotations


class SgenError(Exception):
    """Base of all errors of this package; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ModelFileError(SgenError):
    """A model file or folder is broken, truncated, or says impossible things.

    `path` is the file, `where` the place in it (an offset, a tensor, a metadata key).
    """

    def __init__(self, message: str, *, path: str = "", where: str = "", hint: str = "") -> None:
        place = " ".join(x for x in (path, f"[{where}]" if where else "") if x)
        super().__init__(f"{place}: {message}" if place else message, hint=hint)
        self.path = path
        self.where = where


class UnsupportedModelError(SgenError):
    """The file is sound, but holds an architecture or a feature that sgen does not run."""


class ModelNotFoundError(SgenError):
    """No model of that name is here, and none could be fetched."""


class GrammarError(SgenError):
    """A grammar that cannot be enforced, or is not one.

    `keyword` names what is refused; `pointer` is the JSON pointer into a schema, or
    `position` the offset in characters into a pattern.
    """

    def __init__(
        self,
        message: str,
        *,
        keyword: str = "",
        pointer: str | None = None,
        position: int | None = None,
        hint: str = "",
    ) -> None:
        place = ""
        if pointer is not None:
            place = f" at {pointer or '/'}"
        elif position is not None:
            place = f" at character {position}"
        super().__init__(f"{message}{place}", hint=hint)
        self.keyword = keyword
        self.pointer = pointer
        self.position = position


class InvalidRequestError(SgenError, ValueError):
    """A parameter of a request is out of range; `param` names it."""

    def __init__(self, message: str, *, param: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class CapacityError(InvalidRequestError):
    """A request that could never run here: longer than the context or than the whole cache."""


class ProgramError(SgenError):
    """A program does something that no execution could make sense of."""


class OutputError(SgenError):
    """Generated text does not fit the type that was asked for (only when it was cut short).

    `text` is the whole of it.
    """

    def __init__(self, message: str, *, text: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.text = text


class CancelledError(SgenError):
    """A value was asked for whose generation was cancelled."""


class EngineClosedError(SgenError):
    """The engine was closed, or its step loop died; the cause is chained."""
