"""The repository is one package: every folder is listed, a wheel holds them, imports go down."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "sgen": "sgen",
    "frontend": "sgen.frontend",
    "runtime": "sgen.runtime",
    "grammars": "sgen.grammars",
    "kernels": "sgen.kernels",
}
LEAVES = {"sgen.errors", "sgen.protocol"}
MAY_IMPORT = {
    "frontend": {"grammars"},
    "runtime": {"grammars", "kernels"},
    "grammars": {"kernels"},
    "kernels": set[str](),
}
HEAVY = {
    "frontend": {"torch", "transformers", "tokenizers", "numpy"},
    "grammars": {"torch", "transformers", "tokenizers"},
    "kernels": {"transformers"},
}


def modules() -> dict[str, Path]:
    """Dotted names of all our modules."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert packages == set(listed["packages"])
    assert {package: folder for folder, package in FOLDERS.items()} == listed["package-dir"]


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_go_down(folder: str) -> None:
    allowed = {FOLDERS[x] for x in MAY_IMPORT[folder] | {folder}}
    for path in (ROOT / folder).rglob("*.py"):
        for name in imports(path):
            top = name.partition(".")[0]
            assert top not in HEAVY.get(folder, set()), f"{path.name} imports {name}"
            assert top not in set(FOLDERS) - {"sgen"}, f"{path.name}: say sgen.{name}"
            if top != "sgen" or name == "sgen" or name.rpartition(".")[0] in LEAVES:
                assert name != "sgen", f"{path.name} imports the whole package"
                continue
            ours = name in LEAVES or any(name == a or name.startswith(a + ".") for a in allowed)
            assert ours, f"{path.name} imports {name}"


@pytest.mark.parametrize("package", ["sgen", "sgen.frontend", "sgen.grammars"])
def test_light_packages_stay_light(package: str) -> None:
    names = [n for n in modules() if n == package or n.startswith(package + ".")]
    light = names if package != "sgen" else ["sgen", "sgen.cli", *sorted(LEAVES)]
    code = f"import {', '.join(light)}; import sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


def test_a_wheel_holds_everything(tmp_path: Path) -> None:
    # A copy, since building writes into the source folder.
    copy = tmp_path / "source"
    tracked = [*FOLDERS, "pyproject.toml", "README.md", "LICENSE"]
    copy.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / x) for x in tracked), str(copy)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {Path(n).as_posix() for n in zipfile.ZipFile(wheel).namelist()}
    for name, path in modules().items():
        inside = name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
        assert inside in held, f"{inside} is not in the wheel"
    assert "sgen/py.typed" in held


def test_files_say_what_they_are() -> None:
    for name, path in modules().items():
        source = path.read_text(encoding="utf-8")
        if source.strip():
            assert ast.get_docstring(ast.parse(source)), f"{name} has no docstring"


def test_every_public_name_is_there() -> None:
    import sgen

    for name in sgen.__all__:
        assert getattr(sgen, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = sgen.nothing_of_that_name
