"""Which file a model's name stands for: the cache, packages, paths, and the hub."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sgen.errors import ModelNotFoundError
from sgen.runtime import hub
from sgen.runtime.hub import PackagedModel, resolve_model


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
