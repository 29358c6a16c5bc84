"""Formats: by their specifications' examples, and by the parsers of the standard library."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import re

import pytest

from sgen.grammars import formats
from sgen.grammars.automata import Automaton, run
from sgen.grammars.builder import Builder
from sgen.grammars.json_strings import Strings
from sgen.grammars.pushdown import Plan, Pushdown
from sgen.grammars.regex import automaton
from sgen.grammars.work import Work


def of_format(name: str) -> Strings:
    return Strings.of({"format": name}, "")


def machine(name: str) -> Automaton:
    tree = formats.tree(name)
    assert tree is not None
    found = automaton(tree)
    assert found is not None
    return found


def written(name: str, count: int) -> list[str]:
    """Random texts of a format: one of each class of characters first, then the shortest way."""
    builder = Builder()
    root = of_format(name).lower_key(builder)
    found = Pushdown(Plan(builder.nodes()), root)
    texts = []
    for seed in range(count):
        rng, state, text = random.Random(seed), found.start, bytearray()
        while not found.accepts(state):
            classes, targets = found.row(state)
            choices = [(b, targets[k]) for b, k in enumerate(classes) if k]
            if len(text) > 30:
                nearer = found.distance(state) - 1
                choices = [c for c in choices if found.distance(c[1]) == nearer]
            target = rng.choice(sorted({t for _, t in choices}))
            byte, state = rng.choice([c for c in choices if c[1] == target])
            text.append(byte)
        texts.append(json.loads(text))
    return texts


def test_every_name_has_a_tree_and_others_have_none() -> None:
    for name in formats.NAMES:
        assert written(name, 1)
    assert formats.tree("color") is None
    assert Strings.of({"format": "color"}, "") == Strings.everything()


def test_every_day_is_a_date_and_nothing_else() -> None:
    date = machine("date")
    rng = random.Random(0)
    years = [
        1,
        4,
        96,
        100,
        400,
        999,
        1900,
        2000,
        2024,
        2100,
        9999,
        *rng.sample(range(1, 10000), 20),
    ]
    for year in years:
        for month in range(14):
            for day in (0, 1, 9, 27, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    valid = bool(datetime.date.fromisoformat(text))
                except ValueError:
                    valid = False
                assert run(date, text.encode()) == valid, text
    assert not run(date, b"0000-01-01")


def test_ip_addresses() -> None:
    v4, v6 = machine("ipv4"), machine("ipv6")
    rng = random.Random(0)
    for _ in range(300):
        sparse = rng.getrandbits(128) & rng.getrandbits(128) & -(1 << rng.randrange(128))
        address = ipaddress.IPv6Address(sparse & ~(0xFFFF << rng.randrange(112)))
        for text in (address.compressed, address.exploded):
            assert run(v6, text.encode()), text
        assert run(v4, str(ipaddress.IPv4Address(rng.getrandbits(32))).encode())
    for text in ["::", "::1", "1::", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::8", "::ffff:1.2.3.4",
                 "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", ":1",
                 "12345::", "::1.2.3.256", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", "1.2.3.4",
                 "1:2:3:4:5:6::1.2.3.4", "1:2:3:4:5::1.2.3.4", ":::", "", "g::"]:  # fmt: skip
        try:
            valid = bool(ipaddress.IPv6Address(text)) or text == "::"
        except ValueError:
            valid = False
        # The standard library also lets `::` stand for no group at all; RFC 4291 asks for one.
        assert run(v6, text.encode()) == valid, text
    for text in ["256.1.1.1", "1.2.3", "01.2.3.4", "1.2.3.4.5"]:
        assert not run(v4, text.encode())


# Of each format, texts of it and texts that are not, without white space.
EXAMPLES = [
    ("date", "1970-01-31 2024-02-29 2000-12-01",
     "1970-01-32 2023-02-29 2024-2-1 20240201 2024-W05-1 2024-060 2024-00-10 २०२४-01-01"),
    ("time", "07:08:09Z 07:08:09.25z 23:59:59+23:59 00:00:00.123456789012-00:00",
     "24:00:00Z 07:60:00Z 07:08:61Z 07:08:09 7:08:09Z 07:08:09+24:00 07:08:09+0100 07:08:09,5Z"),
    ("date-time", "2024-02-29T07:08:09Z 1999-12-31t23:59:59.5+05:30",
     "2023-02-29T07:08:09Z 2024-02-01 2024-02-01T07:08 2024-02-01_07:08:09Z 2024-02-01T07:08:09"),
    ("duration", "P3D PT0S P2W P1Y2M3DT4H5M6S P1Y2M P1DT12H PT1H5M PT36H",
     "P PT P1H 1D P1DT P1Y2W P2D1Y PT1H5S P1Y1D PT0.5S P٣D"),
    ("email", "a.b+c@example.org x@localhost ~x_y@a-b.c \"..\"@x.org j@[10.0.0.1] j@[IPv6:fe80::1]",
     "ab @x.org a@ a@b@c .a@x.org a.@x.org a..b@x.org a@x..org a@-x.org a@x_y.org j@[10.0.0.256]"),
    ("idn-email", "jürgen@bücher.de 用户@例子.中国 a.b@example.org", "jürgen @bücher.de jürgen@"),
    ("hostname", "a 1.x a-b.example.org xn--bcher-kva.de " + "x" * 63 + ".y",
     "-a a- a..b a. .a a_b ä.de " + "x" * 64 + " " + ".".join(["x" * 60] * 5)),
    ("idn-hostname", "bücher.de 例子.中国 a-b.example.org", "-a a- ü- a..b 〮x.de"),
    ("ipv4", "0.0.0.0 10.20.30.255", "10.0.0.256 10.0.0 01.0.0.0 1.2.3.4.5 0x7f.1 1.2.3.4/8"),
    ("ipv6", ":: ::1 fe80::1:2 1:2:3:4:5:6:7:8 ::ffff:1.2.3.4 1:2:3:4:5:6:1.2.3.4",
     "1 1:2:3:4:5:6:7 1::2::3 12345:: ::g fe80::1%eth0 ::/8 1.2.3.4 1:2:3:4:5:6:7:1.2.3.4"),
    ("uri", "http://a.b/c?d#e http://u:p@[::1]:80/%20 file:///x urn:isbn:1 mailto:a@b.c x: tel:+1 "
     "http:///a http://[v1.x:y]/ data:,a'b() a+b-c.1://h? http://1.2.3.4:/ s://%41/",
     "//a.b /a a http://a^b http://[::1 http://[x]/ 1a:b x:%zz http://a/{b} a_b:c #a:b"),
    ("uri-reference", "http://a.b //a.b /a a a/b:c ./a:b ?q #f ../x%20", "1:b a\\b é #a#b %g0"),
    ("iri", "http://ü.de/é?ö#ß urn:ñ http://[::1]/ç", "/é http://[ü]/ http://a|b é:x"),
    ("iri-reference", "//ü.de/é é #ß ?\ue000", "é\\ü #\ue000 %é0"),
    ("uri-template",
     "http://a.b/{c}/{d:12}{?e,f*} x {+a.b}{#c}{%41} é",
     "{ {} {a:0} {a}} <x> {a,} {-a}"),
    ("uuid", "123e4567-E89B-12d3-a456-426614174000 00000000-0000-0000-0000-000000000000",
     "123e4567e89b12d3a456426614174000 123e4567-e89b-12d3-a456-42661417400g {123e4567-e89b}"),
    ("json-pointer", "/ /a/0 /~0~1 //", "a a/b /~ /~2 #/a"),
    ("relative-json-pointer", "0 0# 1/a 12/~01/b 2/", "/a -1 01 +1/a 1#/a 0##"),
    ("regex", r"^a+$ (a|b)*? [a-z0-9_]{2,5} \d{3} [^\]a-]+ (?:x(?=y)){3,} \u00e9\x41",
     r"( a) a** [z-a] a{3,2} \ *a [a (?<n>a)(?<n>b) \q"),
    ("byte", "YWI= AAAA YQ==", "a YWI a=bc YWI=="),
    ("decimal", "-1.50 0", "1. .5 1e5"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "yes", "no"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_accepts_and_rejects(name: str, yes: str, no: str) -> None:
    """And no valid text is in the complement."""
    found = of_format(name)
    assert [t for t in yes.split() if not found.has(t)] == []
    assert [t for t in no.split() if found.has(t)] == []
    assert [t for t in yes.split() if found.complement().has(t)] == []
    assert found.has("") == (name in ("uri-reference", "iri-reference", "uri-template", "regex",
                                      "json-pointer", "byte"))  # fmt: skip
    assert not found.has("a b c") or name == "regex"


@pytest.mark.parametrize("name", ["password", "binary", "path"])
def test_formats_that_promise_nothing(name: str) -> None:
    assert of_format(name).has("any text\n")
    assert of_format(name).complement().is_empty(Work())


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("date", "0000-01-01"),
        ("time", "23:59:60Z"),
        ("date-time", "2016-12-31T18:59:60-05:00"),
        ("duration", "P12345Y"),
        ("regex", "(?<name>a)"),
        ("idn-hostname", "xn--bcher-kva.de"),
    ],
)
def test_odd_texts_are_neither_in_a_format_nor_in_its_complement(name: str, odd: str) -> None:
    assert not of_format(name).has(odd)
    assert not of_format(name).complement().has(odd)


def test_regular_expressions_compile() -> None:
    for text in written("regex", 60):
        re.compile(text)


@pytest.mark.parametrize("name", ["uri", "iri"])
def test_identifiers_are_references_too(name: str) -> None:
    references = of_format(f"{name}-reference")
    for text in written(name, 20):
        assert references.has(text)
