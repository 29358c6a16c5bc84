"""C code at first use: compiled once, found again, and done without where it cannot be had."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from pathlib import Path

import pytest

from sgen.kernels import native

pytestmark = pytest.mark.skipif(native.load("grammar") is None, reason="there is no C compiler")

SOURCE = """
int answer(void) { return 42; }
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the source of a library `small`, and an empty cache."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "small.c").write_text(SOURCE + "__attribute__((visibility(\"default\"))) int sg(void)"
                                    " { return answer(); }\n")  # fmt: skip
    monkeypatch.setattr(native, "_HERE", folder)
    monkeypatch.setenv("SGEN_CACHE", str(tmp_path / "cache"))
    return folder


def libraries(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "cache" / "native"))


def test_compiled_once(sources: Path, tmp_path: Path) -> None:
    path = native.build("small")
    made = path.stat().st_mtime_ns
    assert native.Library(path).quick.sg() == native.Library(path).free.sg() == 42
    assert native.build("small") == path
    assert path.stat().st_mtime_ns == made
    source = sources / "small.c"
    source.write_text(source.read_text().replace("42", "43"))
    other = native.build("small")
    assert other != path
    assert native.Library(other).quick.sg() == 43
    assert len(libraries(tmp_path)) == 2, "nothing else is left in the cache"


def _build(_: int) -> str:
    return str(native.build("small"))


def test_several_processes_at_once(sources: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = pool.map(_build, range(4))
    assert len(set(paths)) == 1
    assert native.Library(Path(paths[0])).quick.sg() == 42
    assert len(libraries(tmp_path)) == 1


def test_a_compiler_that_fails(sources: Path, tmp_path: Path) -> None:
    (sources / "small.c").write_text("not C")
    with pytest.raises(RuntimeError, match="failed"):
        native.build("small")
    assert libraries(tmp_path) == []


def test_a_compiler_that_fails_without_a_word(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeError, match="false failed: no message, exit status 1"):
        native.build("small")


def test_no_compiler_is_a_warning(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(RuntimeWarning, match="no C compiler"):
        assert native.load("small") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.load("small") is None, "it is said once"


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGEN_NATIVE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.load("grammar-off") is None


def test_a_file_that_others_can_write_is_not_loaded(sources: Path) -> None:
    path = native.build("small")
    path.chmod(0o777)
    with pytest.raises(RuntimeError, match="somebody else"):
        native.build("small")


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"SGEN_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/sgen"),
        ({}, "~/.cache/sgen"),
    ],
)
def test_the_cache_folder(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SGEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert native.cache_folder() == Path(folder).expanduser()
