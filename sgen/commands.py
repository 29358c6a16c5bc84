"""`sgen run`, `sgen generate` and `sgen pull`."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pydantic

import sgen
from sgen.engine import Engine
from sgen.errors import GrammarError, ProgramError
from sgen.frontend.program import Program
from sgen.frontend.specs import FREE, Spec
from sgen.runtime.hub import pull
from sgen.terminal import ProgressBar, facts, plain, show_run

Load = Callable[[], Engine]
"""Loads the engine that the command line's options describe."""


def run_program(
    target: str, pairs: Sequence[str], load: Load, options: dict[str, Any], *, as_json: bool
) -> int:
    """Run FILE.py:PROGRAM with NAME=VALUE arguments and show its text, its value and its facts."""
    program = load_program(target)
    arguments = _arguments(program, pairs)
    with load() as engine:
        run = program.with_options(engine=engine, **options).run(**arguments)
    if as_json:
        print(json.dumps(_as_json(run), ensure_ascii=False))
    else:
        show_run(run, sys.stdout)
    return 0


def load_program(target: str) -> Program[..., Any]:
    """The program that FILE.py:PROGRAM names; ProgramError says what is there instead."""
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not file or not name:
        raise ProgramError(f"{target!r} is not FILE.py:PROGRAM", hint="as in triage.py:triage")
    if not path.is_file():
        raise ProgramError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ProgramError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # As for `python FILE.py`: the file's folder can be imported from, and types find their module.
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does when it is imported
        raise ProgramError(f"{file} cannot be imported: {_where(error)}") from error
    program = getattr(module, name, None)
    if not isinstance(program, Program):
        found = [n for n, value in vars(module).items() if isinstance(value, Program)]
        there = f"its programs: {', '.join(found)}" if found else "it has no @sgen.program"
        raise ProgramError(f"{file} has no program {name!r}", hint=there)
    return program


def _where(error: Exception) -> str:
    """What went wrong, and the line of the file."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} (line {line or frames[-1].lineno})"


def _arguments(program: Program[..., Any], pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE texts as the values that the program's parameters are annotated with."""
    parameters = program.signature.parameters
    try:
        types = get_type_hints(program.__wrapped__, include_extras=True)
    except Exception as error:  # an annotation may name anything
        raise ProgramError(f"an annotation of {program.name} cannot be read: {error}") from error
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in parameters:
            takes = ", ".join(parameters) or "no arguments"
            raise ProgramError(
                f"--arg {pair!r} does not fit {program.name}", hint=f"it takes {takes}: NAME=VALUE"
            )
        values[name] = _value(name, types.get(name, str), text)
    missing = [
        n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in values
    ]
    if missing:
        flags = " ".join(f'--arg {n}="..."' for n in missing)
        raise ProgramError(f"{program.name} needs {', '.join(missing)}", hint=f"add {flags}")
    return values


def _value(name: str, annotation: Any, text: str) -> Any:
    if annotation in (str, Any):
        return text
    try:
        return pydantic.TypeAdapter(annotation).validate_json(text)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ProgramError(
            f"--arg {name}={text!r}: {problem}", hint="values of other types than text are JSON"
        ) from error
    except Exception as error:  # pydantic has no way to make such a type
        raise ProgramError(
            f"--arg {name}: a {annotation!r} cannot be given on the command line"
        ) from error


def output_form(
    *,
    schema: str | None,
    regex: str | None,
    choices: Sequence[str] | None,
    grammar: str | None,
) -> Spec[Any]:
    """The form that was asked for on the command line, or free text."""
    if grammar is not None:
        suffix = Path(grammar).suffix
        if suffix not in (".lark", ".gbnf"):
            raise GrammarError(f"{grammar}: a grammar file ends in .lark or .gbnf")
        return sgen.grammar(_read(grammar), syntax="lark" if suffix == ".lark" else "gbnf")
    if regex is not None:
        return sgen.regex(regex)
    if choices is not None:
        return sgen.choices(choices)
    if schema is None:
        return FREE
    try:
        return sgen.json_schema(json.loads(_read(schema)))
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"{schema} is not JSON: {error}") from error


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise GrammarError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise GrammarError(f"{path} is not UTF-8 text: {error}") from error


def generate(
    prompt: str,
    system: str | None,
    form: Spec[Any],
    load: Load,
    options: dict[str, Any],
    *,
    raw: bool,
    as_json: bool,
) -> int:
    """One generation, shown as it comes."""
    with load() as engine:
        as_chat = engine.info.has_chat_template and not raw
        if system is not None and not as_chat:
            raise ProgramError("--system needs a chat template", hint="leave --raw out")

        @sgen.program
        async def one(s: sgen.State) -> Any:
            if not as_chat:
                s += prompt
                return await s.gen(form, name="text", **options)
            if system is not None:
                s.system(system)
            s.user(prompt)
            with s.assistant():
                value = s.gen(form, name="text", **options)
            return await value

        run = _stream(one.with_options(engine=engine), quiet=as_json)
    if as_json:
        print(json.dumps(_as_json(run), ensure_ascii=False))
    else:
        print(flush=True)
        print(facts(run), file=sys.stderr)
    return 0


def _stream(program: Program[..., Any], *, quiet: bool) -> sgen.Run[Any]:
    for event in program.stream():
        if event.kind == "var.delta" and not quiet:
            sys.stdout.write(event.delta)
            sys.stdout.flush()
        if event.kind == "done":
            run: sgen.Run[Any] = event.value
    return run


def _as_json(run: sgen.Run[Any]) -> dict[str, Any]:
    usage = run.usage
    return {
        "output": plain(run.output),
        "text": run.text,
        "variables": plain(run.vars),
        "spans": plain(run.spans),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "seconds": round(run.seconds, 3),
    }


def pull_model(name: str, *, as_json: bool) -> int:
    """Fetch a model by its name, or find it where it is already."""
    with ProgressBar(enabled=sys.stderr.isatty()) as bar:
        report: Callable[[int, int], None] = lambda n, of: bar.update("pulling", n, of)  # noqa: E731
        path = pull(name, report)
    print(json.dumps({"name": name, "path": str(path)}) if as_json else path)
    return 0
