"""The command line: `sgen run | generate | chat | serve | grammar | pull | quantize | doctor |
bench`.

Errors go to stderr as one message with its remedy, and the exit status is 1; with `--json` they
are an object on stdout, as results are.  Wrong usage exits with 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sgen
from sgen.errors import SgenError
from sgen.grammar_files import KINDS
from sgen.protocol import SamplingParams
from sgen.quantize_command import quantize_command, quantize_options
from sgen.serve_command import serve_command, serve_options
from sgen.terminal import show_error

if TYPE_CHECKING:
    from sgen.engine import Engine


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    warnings.showwarning = _show_warning
    args, unknown = _parser().parse_known_args(argv)
    if unknown:
        args.refuse(f"unrecognized arguments: {' '.join(unknown)}")  # with the command's usage
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        status = command(args)
        sys.stdout.flush()  # here, where a closed pipe is answered, and not at exit
        return status
    except SgenError as error:
        show_error(error, as_json=args.json)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """On stderr, without the line of code that warned, which no user can do anything about."""
    print(f"sgen: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgen", description="Structured generation: programs, schemas and chats on a model."
    )
    parser.add_argument("--version", action="version", version=f"sgen {sgen.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", "run a program of a Python file", _run)
    run.add_argument("program", metavar="FILE.py:PROGRAM")
    run.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the program: text, or JSON where it is annotated as something else",
    )
    _model_options(run)

    generate = _command(commands, "generate", "generate one text", _generate)
    generate.add_argument("-p", "--prompt", required=True, help="the prompt; '-' reads stdin")
    form = generate.add_mutually_exclusive_group()
    form.add_argument("--schema", metavar="FILE", help="JSON that is valid by this JSON Schema")
    form.add_argument("--regex", metavar="PATTERN", help="text that matches from end to end")
    form.add_argument("--choice", action="append", metavar="TEXT", help="one of these texts")
    form.add_argument("--grammar", metavar="FILE", help="text of this .lark or .gbnf grammar")
    generate.add_argument("--system", help="the system message")
    generate.add_argument(
        "--raw", action="store_true", help="continue the prompt itself, without a chat template"
    )
    generate.add_argument("--stop", action="append", default=[], metavar="TEXT")
    _model_options(generate)

    chat = _command(commands, "chat", "talk with a model; one message a line", _chat)
    chat.add_argument("--system", help="the system message")
    _model_options(chat)

    serve = _command(commands, "serve", "serve a model over HTTP", serve_command)
    serve_options(serve)
    compute_options(serve)

    _grammar_commands(commands)

    pull = _command(commands, "pull", "fetch a model into the cache", _pull)
    pull.add_argument("name", nargs="?", default="smollm2")

    quantize_options(_command(commands, "quantize", "make a smaller model file", quantize_command))

    doctor = _command(commands, "doctor", "check that everything works here", _doctor)
    doctor.add_argument("--model", help="check this model instead of the default one")

    _bench_command(commands)
    return parser


def _command(
    commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(command=run, refuse=parser.error)
    return parser


def _bench_command(commands: Any) -> None:
    bench = _command(commands, "bench", "measure how fast a model runs on this machine", _bench)
    bench.add_argument("model", nargs="?", help="a GGUF file, a folder, or a name")
    bench.add_argument("--only", metavar="NAMES", help="these workloads, with commas between")
    bench.add_argument("--repeat", type=int, default=5, metavar="N", help="runs of each (5)")
    bench.add_argument("--quick", action="store_true", help="without start-up time and memory")
    bench.add_argument("--out", metavar="FILE", help="also write the figures, as JSON")
    bench.add_argument("--chart", metavar="FILE.svg", help="also draw them")
    bench.add_argument("--from", metavar="FILE", dest="kept", help="show what --out has written")
    compute_options(bench)


def _grammar_commands(commands: Any) -> None:
    text = "check, explain, test and convert grammars"
    parser = commands.add_parser("grammar", help=text, description=text)
    grammar = parser.add_subparsers(required=True, metavar="COMMAND")

    check = _command(grammar, "check", "compile grammars and say what they cost", _check)
    check.add_argument("files", nargs="+", metavar="FILE", help="a grammar; '-' reads stdin")
    check.add_argument("--model", help="count tokens with this model's tokenizer")

    explain = _command(grammar, "explain", "say what a grammar means", _explain)
    test = _command(grammar, "test", "test whether a grammar accepts a text", _test)
    convert = _command(grammar, "convert", "write a grammar in another form", _convert)
    for one in (explain, test, convert):
        one.add_argument("grammar", metavar="FILE", help="a grammar; '-' reads stdin")
    given = test.add_mutually_exclusive_group(required=True)
    given.add_argument("text", nargs="?", metavar="TEXT")
    given.add_argument("--file", metavar="PATH", help="the text of a file")
    given.add_argument("--stdin", action="store_true", help="the text from stdin")
    test.add_argument("--lines", action="store_true", help="each line is a text")
    convert.add_argument("--to", required=True, choices=["gbnf", "lark", "regex"])
    for one in (check, explain, test, convert):
        one.add_argument(
            "--kind",
            choices=KINDS,
            help="else by the file's suffix",
        )
        one.add_argument("--whitespace", choices=["compact", "pretty", "any"])
        one.add_argument("--order", choices=["schema", "relaxed", "any"])
        one.add_argument("--unknown", choices=["refuse", "note"])


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a GGUF file, a folder, or a name (default: smollm2)")
    parser.add_argument("--max-tokens", type=int, metavar="N")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument("--seed", type=int)
    compute_options(parser)


def compute_options(parser: argparse.ArgumentParser) -> None:
    """How the model is computed; see runtime/compute.py."""
    parser.add_argument("--threads", type=int, metavar="N", help="default: the machine's cores")
    parser.add_argument(
        "--kv-cache-dtype",
        choices=["fp32", "bf16", "int8", "fp8"],
        help="how keys and values are kept (default: bf16; fp8: torch and triton only)",
    )
    parser.add_argument(
        "--compute",
        choices=["auto", "native", "torch", "triton"],
        default="auto",
        help="C on quantized weights, torch in fp32, or an NVIDIA GPU in bf16, which is "
        "untried (default: C where it can be compiled)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same bits whatever else runs (on a CPU always so)",
    )


def _engine(args: argparse.Namespace) -> Callable[[], Engine]:
    """Loads the engine that the options describe; wrong ones are refused before that."""
    from sgen.engine import Engine
    from sgen.runtime.compute import Compute

    compute = Compute(args.compute, args.threads, args.kv_cache_dtype, args.deterministic)
    return lambda: Engine.load(args.model, compute=compute)


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options that were given; InvalidRequestError names one out of range."""
    names = ("max_tokens", "temperature", "seed")
    given = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    SamplingParams(**given)
    return given


# The commands import what they need when they run: `sgen --help` needs no torch.


def _run(args: argparse.Namespace) -> int:
    from sgen.commands import run_program

    return run_program(args.program, args.arg, _engine(args), _sampling(args), as_json=args.json)


def _generate(args: argparse.Namespace) -> int:
    from sgen.commands import generate, output_form

    form = output_form(
        schema=args.schema, regex=args.regex, choices=args.choice, grammar=args.grammar
    )
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    sampling = _sampling(args) | ({"stop": args.stop} if args.stop else {})
    return generate(
        prompt, args.system, form, _engine(args), sampling, raw=args.raw, as_json=args.json
    )


def _chat(args: argparse.Namespace) -> int:
    from sgen.chat import chat

    params = SamplingParams(**_sampling(args))
    return chat(args.system, _engine(args), params, as_json=args.json)


def _grammar_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a GrammarSpec that were given."""
    names = ("whitespace", "order", "unknown")
    return {n: getattr(args, n) for n in names if getattr(args, n) is not None}


def _check(args: argparse.Namespace) -> int:
    from sgen.grammar_commands import check

    options = _grammar_options(args)
    return check(args.files, args.kind, options, args.model, as_json=args.json)


def _explain(args: argparse.Namespace) -> int:
    from sgen.grammar_commands import explain

    return explain(args.grammar, args.kind, _grammar_options(args), as_json=args.json)


def _test(args: argparse.Namespace) -> int:
    from sgen.grammar_commands import test
    from sgen.grammar_files import read_text

    text = args.text if args.text is not None else read_text("-" if args.stdin else args.file)
    options = _grammar_options(args)
    return test(args.grammar, args.kind, options, text, lines=args.lines, as_json=args.json)


def _convert(args: argparse.Namespace) -> int:
    from sgen.grammar_commands import write_as

    return write_as(args.grammar, args.kind, _grammar_options(args), args.to, as_json=args.json)


def _pull(args: argparse.Namespace) -> int:
    from sgen.commands import pull_model

    return pull_model(args.name, as_json=args.json)


def _doctor(args: argparse.Namespace) -> int:
    from sgen.doctor import doctor

    return doctor(args.model, as_json=args.json)


def _bench(args: argparse.Namespace) -> int:
    from sgen import bench
    from sgen.runtime.compute import Compute

    if args.kept:
        return bench.show(args.kept, args.out, args.chart, as_json=args.json)
    compute = Compute(args.compute, args.threads, args.kv_cache_dtype, args.deterministic)
    only = args.only.split(",") if args.only else ()
    options = bench.Options(args.model, tuple(only), args.repeat, args.quick, compute)
    return bench.run(options, args.out, args.chart, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
