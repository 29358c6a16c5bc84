r"""The `format`s of JSON Schema strings, as trees.

Each follows its specification: RFC 3339 for dates, times and durations, RFC 5321 and 6531 for
mailboxes, RFC 1123 and 5890 for host names, RFC 3986 and 3987 for identifiers, RFC 6570 for their
templates, RFC 6901 for pointers, RFC 9562 for UUIDs, RFC 4648 for base64.  Of some, all texts but
a few odd ones are accepted: no year 0, no leap seconds, and no durations of so many digits that
typed libraries could not hold them; of others (`regex`, the internationalised ones) those that are
valid beyond doubt.  For these there is a second, greater set, which holds all valid texts, and by
which a complement is made.  A format that promises nothing about the text (`password`) is any text.
"""

from __future__ import annotations

from functools import lru_cache

from sgen.grammars import charset
from sgen.grammars.format_regex import REGEX
from sgen.grammars.regex import whole
from sgen.grammars.regex_parser import parse
from sgen.grammars.regex_syntax import ANY, Chars, Tree, concat, either, literal, many

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"  # 0001 to 9999
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP}-02-29)"
)
_OUTER_DATE = f"(?:{_DATE}|0000-[01][0-9]-[0-3][0-9])"
_FRACTION = r"(?:\.[0-9]+)?"
_OFFSET = "(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_TIME = f"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]{_FRACTION}{_OFFSET}"
_OUTER_TIME = f"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60){_FRACTION}{_OFFSET}"


def _duration(digits: str, small: str) -> str:
    seconds = f"{digits}S"
    minutes = f"{digits}M(?:{seconds})?"
    time = f"T(?:{digits}H(?:{minutes})?|{minutes}|{seconds})"
    days = f"{digits}D"
    months = f"{small}M(?:{days})?"
    date = f"(?:{small}Y(?:{months})?|{months}|{days})(?:{time})?"
    return f"P(?:{date}|{time}|{digits}W)"


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
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL})*"

_ADDRESS = rf"\[(?:{_IPV4}|[Ii][Pp][Vv]6:(?:{_IPV6}))\]"
_SUBDOMAIN = "[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?"
_DOMAIN = rf"(?:{_SUBDOMAIN}(?:\.{_SUBDOMAIN})*|{_ADDRESS})"


def _local_part(more: str = "") -> str:
    """What stands before the `@`; `more`: characters besides those of RFC 5321, for a class."""
    atom = f"[0-9A-Za-z!#$%&'*+/=?^_`{{|}}~{more}-]+"
    return rf'(?:{atom}(?:\.{atom})*|"(?:[ !#-\[\]-~{more}]|\\[ -~])*")'


def _identifier(more: str, private: str, *, relative: bool) -> str:
    """A URI or, with `relative`, a reference to one; `more`, `private`: what an IRI also allows."""
    plain = rf"0-9A-Za-z._~!$&'()*+,;={more}\-"
    escaped = f"%{_HEX}{_HEX}"
    segment = f"(?:[{plain}:@]|{escaped})"
    ip = rf"\[(?:{_IPV6}|[Vv]{_HEX}+\.[0-9A-Za-z._~!$&'()*+,;=:-]+)\]"
    host = f"(?:{ip}|(?:[{plain}]|{escaped})*)"
    authority = f"(?:(?:[{plain}:]|{escaped})*@)?{host}(?::[0-9]*)?"
    rooted = f"//{authority}(?:/{segment}*)*|/(?:{segment}+(?:/{segment}*)*)?"
    tail = rf"(?:\?(?:[{plain}:@/?{private}]|{escaped})*)?(?:#(?:[{plain}:@/?]|{escaped})*)?"
    scheme, rest = "[A-Za-z][0-9A-Za-z+.-]*:", f"(?:/{segment}*)*"
    if not relative:
        return f"{scheme}(?:{rooted}|(?:{segment}+{rest})?){tail}"
    first = f"(?:[{plain}@]|{escaped})+"  # without a colon, which would end a scheme
    return f"(?:(?:{scheme})?(?:{rooted})|{scheme}(?:{segment}+{rest})?|(?:{first}{rest})?){tail}"


_PLANES = "".join(rf"\U{p:04x}0000-\U{p:04x}fffd" for p in range(1, 14))
_UCSCHAR = r"\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef" + _PLANES + r"\U000e1000-\U000efffd"
_PRIVATE = r"\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd"

_VARIABLE = rf"(?:[0-9A-Za-z_]|%{_HEX}{_HEX})(?:\.?(?:[0-9A-Za-z_]|%{_HEX}{_HEX}))*"
_EXPRESSION = rf"\{{[+#./;?&]?{_VARIABLE}(?::[1-9][0-9]{{0,3}}|\*)?"
_EXPRESSION += rf"(?:,{_VARIABLE}(?::[1-9][0-9]{{0,3}}|\*)?)*\}}"
_TEMPLATE = rf"(?:[!#$&'(-;=?-\[\]_a-z~{_UCSCHAR}{_PRIVATE}]|%{_HEX}{_HEX}|{_EXPRESSION})*"

_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_BASE64 = "(?:[0-9A-Za-z+/]{4})*(?:[0-9A-Za-z+/]{2}==|[0-9A-Za-z+/]{3}=)?"

_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[Tt]{_TIME}",
    "duration": _duration("[0-9]{1,6}", "[0-9]{1,4}"),
    "email": f"{_local_part()}@{_DOMAIN}",
    "hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _identifier("", "", relative=False),
    "uri-reference": _identifier("", "", relative=True),
    "iri": _identifier(_UCSCHAR, _PRIVATE, relative=False),
    "iri-reference": _identifier(_UCSCHAR, _PRIVATE, relative=True),
    "uri-template": _TEMPLATE,
    "uuid": _UUID,
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
    "byte": _BASE64,
    "decimal": "-?[0-9]{1,28}(?:[.][0-9]{1,28})?",
}
_OUTER = {
    "date": _OUTER_DATE,
    "time": _OUTER_TIME,
    "date-time": f"{_OUTER_DATE}[Tt]{_OUTER_TIME}",
    "duration": _duration("[0-9]+", "[0-9]+"),
    "decimal": "(?s:.)*",
}
LONGEST = {"hostname": 253, "idn-hostname": 253}
"""Formats that also limit the length, which their trees do not do."""

_BY_HAND = ("idn-email", "idn-hostname", "regex")
_ANY_TEXT = ("password", "path", "binary")

NAMES = (*_PATTERNS, *_BY_HAND, *_ANY_TEXT)


@lru_cache(maxsize=64)
def tree(name: str, *, outer: bool = False) -> Tree | None:
    """The texts of a format or, with `outer`, all of them and perhaps more; None if it is not one
    of NAMES."""
    if name in _ANY_TEXT or (outer and name in _BY_HAND):
        return ANY
    if name == "regex":
        return whole(parse(REGEX, limit=1 << 16))
    if name == "idn-hostname":
        return _international_hostname()
    if name == "idn-email":
        return _international_mailbox()
    pattern = _OUTER.get(name) if outer else None
    pattern = pattern or _PATTERNS.get(name)
    return None if pattern is None else whole(parse(pattern, limit=1 << 16))


def _international_mailbox() -> Tree:
    local = parse(_local_part(r"\u0080-\U0010ffff"))
    domain = either((_international_hostname(), parse(_ADDRESS, limit=1 << 16)))
    return concat((local, literal("@"), domain))


def _international_hostname() -> Tree:
    """Labels of letters and digits with single hyphens inside.  Those that are not ASCII have
    letters that IDNA2008 allows wherever they stand, and so few that their encoding fits."""
    letters = charset.union(charset.matching(_LETTERS), charset.shorthand("d"))
    dash = many(literal("-"), 0, 1)
    wide = Chars(charset.union(letters, ((0x61, 0x7A),)))
    international = concat((wide, many(concat((dash, wide)), 0, 10)))
    narrow = parse("[0-9A-Za-z](?:-?[0-9A-Za-z]){0,30}")
    label = either((narrow, international))
    return concat((label, many(concat((literal("."), label)), 0, None)))


# Letters that case folding and normalisation leave alone, and that are written left to right.
_LETTERS = (
    r"(?V1)[[\p{Ll}\p{Lo}]--\p{ASCII}--\p{NFKC_QC=N}--\p{NFKC_QC=M}--\p{Changes_When_Casefolded}"
    r"--\p{Bidi_Class=R}--\p{Bidi_Class=AL}--[\u302e\u302f\u3031-\u3035\u303b]]"
)
