"""Fixtures that more than one test file needs: the real weights, and data where it is present."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import sgen
from benchmarks.served import Served, serve
from sgen.runtime.hub import resolve_model

REPOSITORY = Path(__file__).parent.parent

# Read when triton is imported, which xgrammar does, too: its kernels run in its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The default model, never absent: the make targets pull it."""
    return resolve_model("smollm2")


@pytest.fixture(scope="session")
def qwen_path() -> Path:
    folder = Path(os.environ.get("SGEN_MODELS", "~/.cache/sgen/models")).expanduser()
    path = folder / "qwen0.5b.gguf"
    if not path.exists():
        pytest.skip("Qwen2.5-Coder-0.5B is not in the model folder")
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data that is kept beside the repository where sgen is developed; a user has none."""
    path = REPOSITORY.parent / "shared"
    if not path.is_dir():
        pytest.skip("there is no folder ../shared with the development data")
    return path


@pytest.fixture(scope="session")
def engine(smollm2_path: Path) -> Iterator[sgen.Engine]:
    """One engine on the real model for all tests that only look at texts."""
    with sgen.Engine.load(smollm2_path) as engine:
        yield engine


@pytest.fixture(scope="session")
def served(smollm2_path: Path) -> Iterator[Served]:
    """One `sgen serve` of the real model, with its engine in a process of its own."""
    with serve(str(smollm2_path)) as running:
        yield running
