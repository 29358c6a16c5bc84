"""Formats: by the parsers of the standard library."""

from __future__ import annotations

import datetime
import ipaddress
import random

import pytest

from sgen.grammars import formats
from sgen.grammars.automata import Automaton, run
from sgen.grammars.regex import automaton


def machine(name: str) -> Automaton:
    tree = formats.tree(name)
    assert tree is not None
    found = automaton(tree)
    assert found is not None
    return found


def test_all_can_be_compiled() -> None:
    for name in formats.NAMES:
        assert machine(name).distance(machine(name).start) >= 0
    assert formats.tree("color") is None


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


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("time", ["23:59:59Z", "00:00:00.5+01:00"], ["24:00:00Z", "12:00:60Z", "12:00:00"]),
        ("date-time", ["2024-02-29T12:00:00Z", "2024-01-01t00:00:00.123-00:30"],
         ["2023-02-29T12:00:00Z", "2024-01-01 00:00:00Z", "2024-01-01T00:00:00"]),
        ("duration", ["P1D", "PT5M", "P1DT1H2M3S", "PT0S"], ["P", "PT", "1D", "P1DT", "P1H"]),
        ("email", ["a.b+c@example.org"], ["a@b", "a..b@example.org", "@x.org", "a b@x.org"]),
        ("hostname", ["a", "a-b.example.org", "1.x"], ["-a", "a-", "a..b", "a_b", "x" * 64, ""]),
        ("uri", ["http://a.b/c?d#e", "mailto:x@y.org", "urn:isbn:1", "http://[::1]:80/"],
         ["//a.b", "a b:c", "http://a b", "1a:b", "x:%zz"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
        ("json-pointer", ["", "/a~0b/~1"], ["a", "/~2"]),
        ("decimal", ["-1.50", "0"], ["1.", ".5", "1e5"]),
        ("password", ["x", ""], []),
    ],
)  # fmt: skip
def test_accepts_and_rejects(name: str, yes: list[str], no: list[str]) -> None:
    found = machine(name)
    assert [t for t in yes if not run(found, t.encode())] == []
    assert [t for t in no if run(found, t.encode())] == []
