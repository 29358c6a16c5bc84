r"""Texts that are regular expressions beyond doubt, as a pattern.

They are valid for ECMA-262 (with the flag `u` and without) and for Python alike: no group names or
backreferences, ranges and counts in order, no look-behind, and groups inside each other only up to
DEPTH.
"""

from __future__ import annotations

DEPTH = 3

_HEX = "[0-9A-Fa-f]"
_CODE = f"(?:[0-9A-CEFa-cef]{_HEX}{{3}}|[Dd][0-7]{_HEX}{{2}})"  # no half surrogate pair
_ESCAPE = rf"\\(?:[dDwWsSnrtfv^$\\.*+?()\[\]{{}}|/]|x{_HEX}{{2}}|u{_CODE})"
_PLAIN = r"[^\\^$.*+?()\[\]{}|/\n\r\u2028\u2029]"


# Ranges that are in order whichever of their ends are chosen.
_RANGE = "0-[0-9]|1-[1-9]|[1-4]-[5-9]|A-[A-Z]|[A-M]-[N-Z]|a-[a-z]|[a-m]-[n-z]"
_MEMBER = rf"(?:[^\\\[\]^&~|\-\n\r\u2028\u2029]|{_ESCAPE}|{_RANGE})"
_CLASS = rf"\[\^?{_MEMBER}+-?\]"

# Counts {m,n}: n has more digits than m, or as many and one that is greater.
_COUNTS = r"\{(?:[0-9]{1,4}(?:,)?|[0-9],[1-9][0-9]{1,3}|[1-9][0-9],[1-9][0-9]{2,3}|"
_COUNTS += "|".join(f"{n},[{n}-9]" for n in range(10)) + r")\}"
_QUANTIFIER = rf"(?:(?:[*+?]|{_COUNTS})\??)?"


def _pattern(depth: int) -> str:
    atom = rf"{_PLAIN}|\.|{_ESCAPE}|{_CLASS}"
    if depth:
        atom += rf"|\((?:\?:)?{_pattern(depth - 1)}\)"
        look = rf"|\(\?[=!]{_pattern(0)}\)"
    else:
        look = ""
    return rf"(?:(?:{atom}){_QUANTIFIER}|[\^$|]|\\[bB]{look})*"


REGEX = _pattern(DEPTH)
