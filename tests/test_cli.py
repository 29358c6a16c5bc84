"""The command line, as a user types it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import sgen.cli

ROOT = Path(__file__).parent.parent


def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sgen.cli", *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "greet.py"
    path.write_text(
        "import sgen\n"
        "@sgen.program\n"
        "async def greet(s: sgen.State, name: str, times: int = 1) -> list[str]:\n"
        "    s += f'Say hello to {name}: '\n"
        "    word = s.select(['Hello', 'Hi'], name='word')\n"
        "    code = s.gen(sgen.regex(r' [a-c]{3}!'), name='code')\n"
        "    return [await word, await code] * times\n"
    )
    return path


def test_run_shows_text_value_and_facts(program: Path) -> None:
    done = run("run", f"{program}:greet", "--arg", "name=Ada", "--arg", "times=2")
    assert done.returncode == 0, done.stderr
    assert "Say hello to Ada: ⟦H" in done.stdout
    assert done.stdout.count("!'") == 2, "the value, a list of four"
    assert "tokens prefilled" in done.stdout
    assert "from the cache" in done.stdout
    assert "tok/s" in done.stdout


def test_run_as_json(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sgen.cli.main(["run", f"{program}:greet", "--arg", "name=Ada", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["output"] == [result["variables"]["word"], result["variables"]["code"]]
    assert result["text"].startswith("Say hello to Ada: H")
    assert result["usage"]["completion_tokens"] > 0
    assert [s["constrained"] for s in result["spans"]] == [False, True, True]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["{}"], "FILE.py:PROGRAM"),
        (["nowhere.py:x"], "no file nowhere.py"),
        (["{}:missing"], "its programs: greet"),
        (["{}:greet"], '--arg name="..."'),
        (["{}:greet", "--arg", "nome=Ada"], "it takes name, times"),
        (["{}:greet", "--arg", "name=Ada", "--arg", "times=many"], "times='many'"),
        (["{}:greet", "--arg", "name=Ada", "--model", "nowhere"], "no model 'nowhere'"),
        (["{}:greet", "--arg", "name=Ada", "--temperature", "-1"], "temperature"),
    ],
)
def test_wrong_use_of_run_is_explained(
    program: Path, args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sgen.cli.main(["run", *(a.format(program) for a in args)]) == 1
    shown = capsys.readouterr()
    assert says in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def broken(:\n", "line 1"),
        ("import sgen\n\n1 / 0\n", "ZeroDivisionError: division by zero (line 3)"),
        (
            "import sgen\nclass C: ...\n@sgen.program\nasync def p(s, a: C) -> None: ...\n",
            "cannot be given on the command line",
        ),
        (
            "import sgen\n@sgen.program\nasync def p(s, a: 'Missing') -> None: ...\n",
            "cannot be read",
        ),
    ],
)
def test_files_that_are_no_programs(
    tmp_path: Path, source: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.py"
    path.write_text(source)
    assert sgen.cli.main(["run", f"{path}:p", "--arg", "a=1"]) == 1
    assert says in capsys.readouterr().err


def test_text_annotations_are_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "later.py"
    path.write_text(
        "from __future__ import annotations\n"
        "import sgen\n"
        "@sgen.program\n"
        "async def p(s: sgen.State, n: int) -> int:\n"
        "    return n + 1\n"
    )
    assert sgen.cli.main(["run", f"{path}:p", "--arg", "n=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == 3


def test_a_closed_pipe_is_no_error() -> None:
    shell = f"{sys.executable} -m sgen.cli pull smollm2 | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 141)
    assert not done.stderr


def test_generate_by_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 10}, "big": {"type": "boolean"}},
        "required": ["city", "big"],
        "additionalProperties": False,
    }
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    asked = ["generate", "-p", "Name a city", "--schema", str(file), "--max-tokens", "20"]
    assert sgen.cli.main(asked) == 0
    shown = capsys.readouterr()
    assert set(json.loads(shown.out)) == {"city", "big"}
    assert "decoded" in shown.err


def test_generate_by_regex_and_from_stdin() -> None:
    done = run(
        "generate", "-p", "-", "--regex", "[0-9]{4}", "--raw", "--json", stdin="The year is "
    )
    result = json.loads(done.stdout)
    assert result["text"] == "The year is " + result["output"]
    assert len(result["output"]) == 4


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--schema", "nested.json"], "not JSON"),
        (["--schema", "missing.json"], "missing.json"),
        (["--schema", "README.md"], "not JSON"),
        (["--regex", "(a"], "character"),
        (["--regex", "a", "--max-tokens", "0"], "max_tokens"),
    ],
)
def test_wrong_use_of_generate_is_explained(
    args: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nested.json").write_text("[" * 100_000)
    (tmp_path / "README.md").write_text("# no JSON")
    assert sgen.cli.main(["generate", "-p", "x", *args, "--json"]) == 1
    assert says in json.loads(capsys.readouterr().out)["error"]["message"]


def test_chat_through_a_pipe() -> None:
    lines = "My name is Ada.\n\n/new\nSay yes.\n"
    done = run("chat", "--json", "--max-tokens", "6", stdin=lines)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["finish_reason"] in ("stop", "length") for a in answers] == [True, True]
    assert answers[0]["usage"]["prompt_tokens"] >= answers[1]["usage"]["prompt_tokens"]


def test_doctor_finds_everything_well() -> None:
    done = run("doctor", "--json")
    result = json.loads(done.stdout)
    assert result["ok"], result
    assert {"python", "model file", "generation"} <= {c["name"] for c in result["checks"]}


def test_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    done = run("doctor", "--model", str(broken))
    assert done.returncode == 1
    assert "fail" in done.stdout


def test_a_warning_is_one_line_without_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def doctor(args: argparse.Namespace) -> int:
        warnings.warn("there is no C compiler", RuntimeWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(sgen.cli, "_doctor", doctor)
    assert sgen.cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == "sgen: warning: there is no C compiler\n"


def test_pull_finds_what_is_there(smollm2_path: Path) -> None:
    done = run("pull", "smollm2", "--json")
    assert Path(json.loads(done.stdout)["path"]) == smollm2_path


def test_an_unknown_option_shows_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        sgen.cli.main(["serve", "--prot", "1"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("usage: sgen serve")
    assert told.endswith("unrecognized arguments: --prot\n")
