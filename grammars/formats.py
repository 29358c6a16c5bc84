r"""The `format`s of JSON Schema strings, as trees.

Each is what its specification and the parsers of Python's typed libraries all accept: RFC 3339
dates and times with real days and without leap seconds, RFC 9562 UUIDs, RFC 5321 mailboxes with
plain local parts, RFC 1123 host names, RFC 3986 URIs with a
host after `//`.  A format that promises nothing about the
text (`password`) is any text.
"""

from __future__ import annotations

from functools import lru_cache

from sgen.grammars.regex import whole
from sgen.grammars.regex_syntax import ANY, Tree, parse

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"  # 0001 to 9999
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP}-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
_TIME = f"{_CLOCK}(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_SPAN = r"(?:[0-9]{1,3}H(?:[0-9]{1,4}M(?:[0-9]{1,5}S)?)?|[0-9]{1,4}M(?:[0-9]{1,5}S)?|[0-9]{1,5}S)"
_DURATION = rf"P(?:[0-9]{{1,6}}D(?:T{_SPAN})?|T{_SPAN})"
_HEX = "[0-9A-Fa-f]"
_UUID = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_H16 = f"{_HEX}{{1,4}}"
_LAST32 = f"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = "|".join(
    [f"(?:{_H16}:){{6}}{_LAST32}"]
    + [
        f"(?:(?:{_H16}:){{0,{before - 1}}}{_H16})?::(?:{_H16}:){{{5 - before}}}{_LAST32}"
        if before
        else f"::(?:{_H16}:){{5}}{_LAST32}"
        for before in range(6)
    ]
    + [f"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}", f"(?:(?:{_H16}:){{0,6}}{_H16})?::"]
)
_LABEL = "[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_SHORT = "[0-9A-Za-z](?:[0-9A-Za-z-]{0,22}[0-9A-Za-z])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,2}}|{_SHORT}(?:\.{_SHORT}){{0,9}}"  # at most 253 in all
_ATOM = "[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]{1,20}"
_EMAIL = rf"{_ATOM}(?:\.{_ATOM}){{0,2}}@{_LABEL}(?:\.{_LABEL}){{0,2}}\.[A-Za-z]{{2,24}}"
_PCHAR = f"(?:[0-9A-Za-z._~!$&'()*+,;=:@-]|%{_HEX}{_HEX})"
_AUTHORITY = (
    f"(?:(?:[0-9A-Za-z._~!$&'()*+,;=:-]|%{_HEX}{_HEX})*@)?"
    rf"(?:\[(?:{_IPV6})\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%{_HEX}{_HEX})+)(?::[0-9]{{1,4}})?"
)
_TAIL = rf"(?:\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?"
_URI = (
    "[A-Za-z][0-9A-Za-z+.-]*:"
    f"(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?|{_PCHAR}+(?:/{_PCHAR}*)*)"
    f"{_TAIL}"
)
_SITE = rf"https?://(?:{_LABEL}\.){{0,3}}[A-Za-z]{{1,24}}(?::[0-9]{{1,4}})?"
_SITE_LENGTHS = 8, 8 + 3 * 64 + 24 + 5  # the shortest and the longest
_BASE64 = "(?:[0-9A-Za-z+/]{4})*(?:[0-9A-Za-z+/]{2}==|[0-9A-Za-z+/]{3}=)?"

_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[Tt]{_TIME}",
    "duration": _DURATION,
    "uuid": _UUID,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "email": _EMAIL,
    "hostname": _HOST,
    "uri": _URI,
    "decimal": "-?[0-9]{1,28}(?:[.][0-9]{1,28})?",
    "json-pointer": "(?:/(?:[^~/]|~[01])*)*",
}
_ANY_TEXT = ("password", "path", "binary")

NAMES = (*_PATTERNS, *_ANY_TEXT)


@lru_cache(maxsize=64)
def tree(name: str) -> Tree | None:
    """The texts of a format; None if it is not one of NAMES."""
    if name in _ANY_TEXT:
        return ANY
    pattern = _PATTERNS.get(name)
    return None if pattern is None else whole(parse(pattern, limit=16_384))


@lru_cache(maxsize=64)
def web_address(low: int, high: int) -> Tree | None:
    """URIs of `low` to `high` characters, those of web pages only; None: no ready-made tree.

    Everything but the path is within the bounds whatever it is, so that only the path has to
    be counted, and no intersection is needed.
    """
    shortest, longest = _SITE_LENGTHS
    if low > shortest or not longest < high <= 65_535:
        return None
    path = f"(?:|[/?][0-9A-Za-z._~!$&'()*+,;=:@/?-]{{0,{high - longest - 1}}})"
    return whole(parse(_SITE + path))


@lru_cache(maxsize=1)
def base64() -> Tree:
    """RFC 4648 with padding."""
    return whole(parse(_BASE64))
