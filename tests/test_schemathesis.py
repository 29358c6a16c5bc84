"""Requests that schemathesis makes of /openapi.json get the answers that it describes.

Of each operation, bodies that the description allows and such that it does not: no answer is a
fault of the server, each has a status, a type and a body that are described, and what the
description does not allow is refused.  That all it allows is accepted is not asked: a description
cannot say that a name must be that of a parameter, or a grammar one that compiles.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from live_server import ServerFake
from schemathesis import Case, checks

from benchmarks.served import Served
from sgen.server.app import create_app
from sgen.server.settings import Settings

repeatable = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


LENGTHS = {"prompt": "max_tokens", "messages": "max_tokens", "input": "max_output_tokens"}


def validate(case: Case) -> None:
    case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])


fake = schemathesis.openapi.from_asgi(
    "/openapi.json", create_app(ServerFake(default="hi"), Settings())
)


# /messages is /v1/messages once more; the first body of a program takes ten seconds to make.
@fake.exclude(path_regex="^/messages|^/v1/programs").parametrize()
@settings(repeatable, max_examples=4)
def test_answers_are_as_described(case: Case) -> None:
    validate(case)


@pytest.mark.slow
@fake.parametrize()
@settings(repeatable, max_examples=40)
def test_many_answers_are_as_described(case: Case) -> None:
    validate(case)


@pytest.mark.slow
def test_answers_of_a_model_are_as_described(served: Served) -> None:
    def check(case: Case) -> None:
        if isinstance(case.body, dict):  # else as many tokens as the context has
            for prompt, limit in LENGTHS.items():
                if prompt in case.body:
                    case.body.setdefault(limit, 32)
        validate(case)

    described = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    for operation in described.get_all_operations():
        settings(repeatable, max_examples=20)(given(operation.ok().as_strategy())(check))()
