"""Python package indexes as the user's pip is configured for them.

pip's settings come from its environment variables and from `pip config list`: index addresses,
certificates, proxy and timeout.  The simple index is read as HTML or JSON (PEP 503 and PEP 691).
"""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.error import URLError
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit
from urllib.request import (
    BaseHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

_DEFAULT_INDEX = "https://pypi.org/simple"
_MAX_PAGE = 1 << 24  # bytes of a project's page
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_SETTING = re.compile(r"(?:global|install|download|:env:)\.([a-z-]+)=(.+)")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of an index; `sha256` is empty where the index gives none."""

    filename: str
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PipSettings:
    """pip's settings by their long option names, such as `index-url`."""

    values: Mapping[str, str]

    @classmethod
    def read(cls) -> PipSettings:
        """Later sources win, as in pip: global, the command's own, the environment."""
        found: dict[str, str] = {}
        try:
            listed = subprocess.run(
                [sys.executable, "-m", "pip", "config", "list"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            listed = ""  # an environment without pip: its variables still count
        lines = sorted(listed.splitlines(), key=lambda line: not line.startswith("global."))
        for line in lines:
            match = _SETTING.fullmatch(line.strip())
            if match:
                found[match[1]] = _unquoted(match[2])
        for name, value in os.environ.items():
            if name.startswith("PIP_") and value:
                found[name[4:].lower().replace("_", "-")] = value
        return cls(found)

    @property
    def indexes(self) -> list[str]:
        """Addresses over HTTP; folders, which pip also takes, are left to pip itself."""
        if self.values.get("no-index", "false").lower() in ("1", "true", "yes", "on"):
            return []
        listed = self.values.get("index-url", _DEFAULT_INDEX).split()
        listed += self.values.get("extra-index-url", "").split()
        return [u for u in listed if urlsplit(u).scheme in ("http", "https")]

    @property
    def timeout(self) -> float:
        """Seconds without a byte until a connection counts as dead."""
        for key in ("timeout", "default-timeout"):
            try:
                return max(1.0, float(self.values[key]))
            except (KeyError, ValueError):
                continue
        return 15.0

    def opener(self) -> OpenerDirector:
        """Opens addresses with pip's certificates and proxy, else with the environment's.

        OSError: the certificates cannot be read.
        """
        handlers: list[BaseHandler] = [HTTPSHandler(context=self._tls())]
        proxy = self.values.get("proxy")
        if proxy:
            handlers.append(ProxyHandler({"http": proxy, "https": proxy}))
        return build_opener(*handlers)

    def _tls(self) -> ssl.SSLContext:
        certificates = (
            self.values.get("cert")
            or os.environ.get("REQUESTS_CA_BUNDLE")
            or os.environ.get("CURL_CA_BUNDLE")
        )
        if not certificates:
            return ssl.create_default_context()  # which reads SSL_CERT_FILE and SSL_CERT_DIR
        if os.path.isdir(certificates):
            return ssl.create_default_context(capath=certificates)
        return ssl.create_default_context(cafile=certificates)


def _unquoted(text: str) -> str:
    """A value of `pip config list`, which prints it as a Python literal."""
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def index_request(url: str, index: str) -> Request:
    """A request for `url`; the index's own user and password go to the index's host only."""
    home, target = urlsplit(index), urlsplit(url)
    owner = target if target.username else home
    host = target.netloc.rpartition("@")[2]
    made = Request(urlunsplit(target._replace(netloc=host)))
    if owner.username and host == home.netloc.rpartition("@")[2]:
        secret = f"{unquote(owner.username)}:{unquote(owner.password or '')}"
        encoded = base64.b64encode(secret.encode()).decode()
        made.add_unredirected_header("Authorization", f"Basic {encoded}")
    made.add_header("Accept-Encoding", "identity")
    return made


def find_wheel(
    opener: OpenerDirector, index: str, package: str, version: str, timeout: float
) -> Wheel | None:
    """The wheel of exactly that version that runs anywhere; None if the index has none.

    OSError or ValueError: the index could not be reached or read.
    """
    page = index_request(f"{index.rstrip('/')}/{_normalized(package)}/", index)
    page.add_header("Accept", _ACCEPT)
    with opener.open(page, timeout=timeout) as answer:
        raw = answer.read(_MAX_PAGE + 1)
        base = answer.geturl()
        is_json = "json" in answer.headers.get_content_type()
    if len(raw) > _MAX_PAGE:
        raise URLError(f"the page of {package} is longer than {_MAX_PAGE} bytes")
    for wheel in _from_json(raw, base) if is_json else _from_html(raw, base):
        name, _, rest = wheel.filename.partition("-")
        if (
            _normalized(name) == _normalized(package)
            and rest.startswith(f"{version}-")
            and rest.endswith("-none-any.whl")
            and urlsplit(wheel.url).scheme in ("http", "https")
        ):
            return wheel
    return None


def _normalized(name: str) -> str:
    """A project's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _from_json(raw: bytes, base: str) -> Iterator[Wheel]:
    page = json.loads(raw)
    files = page.get("files") if isinstance(page, dict) else None
    for file in files if isinstance(files, list) else []:
        if isinstance(file, dict):
            hashes = file.get("hashes")
            digest = hashes.get("sha256", "") if isinstance(hashes, dict) else ""
            url = urljoin(base, str(file.get("url", "")))
            yield Wheel(str(file.get("filename", "")), url, str(digest))


def _from_html(raw: bytes, base: str) -> Iterator[Wheel]:
    parser = _Links()
    parser.feed(raw.decode("utf-8", "replace"))
    for href in parser.found:
        url, fragment = urldefrag(urljoin(urljoin(base, parser.base), href))
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        yield Wheel(
            filename, url, fragment.removeprefix("sha256=") if "sha256=" in fragment else ""
        )


class _Links(HTMLParser):
    """Collects the links of a page, and the address that they are relative to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href and tag == "a":
            self.found.append(href)
        elif href and tag == "base":
            self.base = href
