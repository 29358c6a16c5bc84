"""The playground: its files and headers, and each of its tabs in headless Chromium."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from browser import Browser
from served import ServedFake, on_socket
from starlette.testclient import TestClient

from sgen.errors import SgenError
from sgen.protocol import Chunk, GenerateRequest, Usage
from sgen.server.app import create_app
from sgen.server.playground import TYPES
from sgen.server.settings import Settings

VERDICT = '{"team":"accounts","urgent":true,"reply":"We are on it."}'


class Speaker(ServedFake):
    """Half of its prompts are cached; constrained text begins with a token that was forced."""

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        async for chunk in super().extend(request):
            if chunk.finish_reason is None:
                forced = (0,) if request.grammar is not None and chunk.text[0] == "{" else ()
                yield Chunk(text=chunk.text, token_ids=chunk.token_ids[:1], forced=forced)
            else:
                tokens = self.count_tokens(request.prompt)
                yield Chunk(finish_reason="stop", usage=Usage(tokens, tokens // 2, 9))


@pytest.fixture
def backend() -> ServedFake:
    answers = {"text": " clear and short.", "reply": "It finds prefixes.", "idea": "Call them."}
    return Speaker({**answers, "verdict": VERDICT}, choices={"severity": "high"})


@pytest.fixture
def url(backend: ServedFake) -> Iterator[str]:
    with on_socket(create_app(backend, Settings())) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.look(1280)
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    browser.problems.clear()
    yield browser
    assert browser.problems == []


def run(page: Browser, tab: str) -> None:
    """Press the tab's button, and wait for the end."""
    page.value(f"document.querySelector('#panel-{tab} .run').click()")
    page.wait(f"['done', 'failed'].includes(document.querySelector('#panel-{tab}').dataset.state)")


def text(page: Browser, selector: str) -> str:
    found: str = page.value(f"document.querySelector({selector!r}).textContent")
    return found


def test_the_page_needs_no_key_and_loads_nothing_from_elsewhere() -> None:
    app = create_app(ServedFake(), Settings(api_keys=("secret",)))
    client = TestClient(app)
    for path in ["/", *(f"/static/{name}" for name in TYPES)]:
        response = client.get(path)
        assert response.status_code == 200, path
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"https?://", response.text), path
    assert client.get("/static/other.js").status_code == 404


def test_the_page_can_be_switched_off() -> None:
    client = TestClient(create_app(ServedFake(), Settings(playground=False)))
    assert client.get("/").status_code == 404


def test_a_prompt_shows_its_tokens_and_figures(page: Browser, url: str) -> None:
    page.open(f"{url}/")
    run(page, "prompt")
    assert text(page, "#panel-prompt .result").endswith("says are clear and short.")
    assert page.value("document.querySelectorAll('#panel-prompt .result .sampled').length") == 6
    assert "of 57 (49 %)" in text(page, "#panel-prompt .figures")


def test_a_chat_remembers_what_was_said(page: Browser, url: str, backend: ServedFake) -> None:
    page.open(f"{url}/?tab=chat")
    run(page, "chat")
    page.value("document.querySelector('#chat-text').value = 'And more?'")
    run(page, "chat")
    assert page.value("document.querySelectorAll('#panel-chat .turn').length") == 4
    roles = [p.role for p in backend.requests[1].prompt if type(p).__name__ == "RoleStart"]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_a_schema_is_checked_while_it_is_written(page: Browser, url: str) -> None:
    page.open(f"{url}/?tab=schema")
    page.wait("document.querySelector('#schema-check').className === 'check ok'")
    page.value(
        "(() => { const source = document.querySelector('#schema-source');"
        'source.value = \'{"type": "string", "sparkle": 1}\';'
        "source.dispatchEvent(new Event('input')); })()"
    )
    page.wait("document.querySelector('#schema-check').className === 'check bad'")
    assert "at /sparkle, line 1, column 20" in text(page, "#schema-check")


def test_constrained_output_shows_what_was_forced(
    page: Browser, url: str, backend: ServedFake
) -> None:
    backend.answers["reply"] = '{"name":"Ada"}'
    page.open(f"{url}/?tab=schema")
    run(page, "schema")
    assert text(page, "#panel-schema .result .forced") == '{"n'
    assert page.value("document.querySelectorAll('#panel-schema .result .masked').length") == 4


def test_a_programs_tree_is_drawn(page: Browser, url: str) -> None:
    page.open(f"{url}/?tab=program")
    run(page, "program")
    labels = "[...document.querySelectorAll('.segment header')].map(h => h.firstChild.textContent)"
    assert page.value(labels) == ["root", "branch 0", "branch 1", "branch 2", "root"]
    assert page.value("document.querySelectorAll('.children > .branch').length") == 3
    assert text(page, ".segment .chosen") == "high"
    assert '"team": "accounts"' in text(page, "#panel-program .answer")


def test_errors_are_shown(page: Browser, url: str, backend: ServedFake) -> None:
    backend.answers["idea"] = SgenError("no ink")
    page.open(f"{url}/?tab=program")
    run(page, "program")
    assert "no ink" in text(page, "#panel-program .output > .error")
    assert page.value("document.querySelectorAll('.segment.failed').length") == 3


def test_a_key_is_asked_for_and_used(browser: Browser) -> None:
    app = create_app(Speaker({"text": "yes"}), Settings(api_keys=("secret",)))
    with on_socket(app) as url:
        browser.open(f"{url}/")
        browser.wait("!document.querySelector('#key-label').hidden")
        browser.value(
            "(() => { const key = document.querySelector('#key'); key.value = 'secret';"
            "key.dispatchEvent(new Event('change')); })()"
        )
        browser.wait("document.querySelector('#model').textContent === 'fake'")
        run(browser, "prompt")
        assert text(browser, "#panel-prompt .result").endswith("yes")


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("tab", ["prompt", "chat", "schema", "program"])
def test_nothing_is_wider_than_the_window(
    page: Browser, url: str, tab: str, width: int, tmp_path: Path
) -> None:
    page.look(width)
    page.open(f"{url}/?tab={tab}")
    run(page, tab)
    assert page.value("document.documentElement.scrollWidth") <= width
    page.screenshot(tmp_path / "page.png")
    page.look(1280)
