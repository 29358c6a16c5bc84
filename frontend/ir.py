"""The program as data: one list of nodes, each in a branch, and an expression for the result.

True of every `Program` that came through `validate` (and `decode` calls it): a variable is bound
by exactly one node, which stands before every node that reads it; a branch is born by one `Fork`
and takes no node after its `Join`; messages open and close in turn and never nest.  Nodes of a
branch run in their order, branches run side by side.  `encode` and `decode` are inverse, so the
same bytes mean the same program here and on a server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from sgen.errors import ProgramError
from sgen.protocol import GrammarSpec, Role, SamplingParams

ROOT = 0
"""The branch that a program starts in."""

MAX_DEPTH = 64
"""Forks in forks."""

MAX_FORK = 1024
"""Branches of one fork."""

MAX_NODES = 100_000
MAX_OPTIONS = 65_536
"""Options of a select, or texts of a choices grammar."""

MAX_ID = 2**31
"""Ids of variables and branches are from 0 to below this."""

NAME = re.compile(r"\w[\w -]{0,63}")
"""What a variable can be called."""

SelectBy = Literal["tree", "mean", "sum"]


class Lit(msgspec.Struct, frozen=True, tag="lit"):
    """Text that the program holds."""

    text: str


class Arg(msgspec.Struct, frozen=True, tag="arg"):
    """An argument's text; `path` leads by keys and indexes to a part of it.

    `text` says that the program can only use a string here.
    """

    name: str
    path: tuple[str | int, ...] = ()
    text: bool = False


class Var(msgspec.Struct, frozen=True, tag="var"):
    """The text of a variable, as it was generated."""

    var: int


Piece = Lit | Arg | Var


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Append the pieces to the branch."""

    branch: int
    pieces: tuple[Piece, ...]


class RoleStart(msgspec.Struct, frozen=True, tag="role_start"):
    """Open a message."""

    branch: int
    role: Role


class RoleEnd(msgspec.Struct, frozen=True, tag="role_end"):
    """Close the message that is open."""

    branch: int


class Gen(msgspec.Struct, frozen=True, tag="gen", kw_only=True):
    """Generate text, constrained by `grammar` where there is one, and bind it.

    The value is the text itself, or what it says as JSON.
    """

    branch: int
    var: int
    name: str
    params: SamplingParams = SamplingParams()
    grammar: GrammarSpec | None = None
    value: Literal["text", "json"] = "text"


class Select(msgspec.Struct, frozen=True, tag="select", kw_only=True):
    """Append the likeliest option and bind it.

    `tree` compares probabilities on the token trie of all options, `sum` and `mean` the options'
    own log-probabilities.  Of equals, the first.
    """

    branch: int
    var: int
    name: str
    options: tuple[str, ...]
    by: SelectBy = "tree"


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Start `children` with all that is in the branch."""

    branch: int
    children: tuple[int, ...]


class Join(msgspec.Struct, frozen=True, tag="join"):
    """Go on when `children` are done."""

    branch: int
    children: tuple[int, ...]


Node = Text | RoleStart | RoleEnd | Gen | Select | Fork | Join


class Constant(msgspec.Struct, frozen=True, tag="constant"):
    """A JSON scalar."""

    value: str | int | float | bool | None


class ValueOf(msgspec.Struct, frozen=True, tag="value_of"):
    """A variable's value."""

    var: int


class ArgOf(msgspec.Struct, frozen=True, tag="arg_of"):
    """An argument, or a part of it."""

    name: str
    path: tuple[str | int, ...] = ()


class TextOf(msgspec.Struct, frozen=True, tag="text_of"):
    """Pieces put together."""

    pieces: tuple[Piece, ...]


class ListOf(msgspec.Struct, frozen=True, tag="list_of"):
    """A list, or a tuple where `fixed`."""

    items: tuple[Result, ...]
    fixed: bool = False


class DictOf(msgspec.Struct, frozen=True, tag="dict_of"):
    """A dict with text keys."""

    items: dict[str, Result]


Result = Constant | ValueOf | ArgOf | TextOf | ListOf | DictOf


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A whole program.  `params` are the arguments that it may read."""

    name: str
    params: tuple[str, ...]
    nodes: tuple[Node, ...]
    result: Result = Constant(None)


def encode(program: Program) -> bytes:
    """JSON bytes of a program."""
    return msgspec.json.encode(program)


def decode(data: bytes) -> Program:
    """The program of JSON bytes, validated.  ProgramError says what is wrong and where."""
    try:
        program = msgspec.json.decode(data, type=Program)
        validate(program)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProgramError(f"not a program: {error}") from error
    return program


class _Branch:
    """What validation knows of a branch at some node."""

    def __init__(self, in_role: bool, depth: int) -> None:
        self.in_role = in_role
        self.own_role = False
        self.joined = False
        self.depth = depth
        self.children: list[int] = []


class _Checker:
    """Walks the nodes once and keeps what is bound so far."""

    def __init__(self, program: Program) -> None:
        self.params = frozenset(program.params)
        self.bound: set[int] = set()
        self.branches = {ROOT: _Branch(in_role=False, depth=0)}
        self.where = ""

    def need(self, ok: bool, text: str) -> None:
        if not ok:
            raise ProgramError(f"{self.where}: {text}")

    def pieces(self, pieces: tuple[Piece, ...]) -> None:
        for piece in pieces:
            if isinstance(piece, Var):
                self.variable(piece.var)
            elif isinstance(piece, Arg):
                self.argument(piece.name)

    def variable(self, var: int) -> None:
        self.need(var in self.bound, f"variable {var} is read before it is bound")

    def argument(self, name: str) -> None:
        self.need(name in self.params, f"{name!r} is not an argument of this program")

    def bind(self, var: int) -> None:
        self.need(var not in self.bound, f"variable {var} is bound twice")
        self.need(0 <= var < MAX_ID, f"{var} is no number of a variable")
        self.bound.add(var)

    def node(self, node: Node) -> None:
        self.need(node.branch in self.branches, f"branch {node.branch} does not exist")
        branch = self.branches[node.branch]
        self.need(not branch.joined, f"branch {node.branch} goes on after its join")
        match node:
            case Text():
                self.pieces(node.pieces)
            case RoleStart():
                self.need(not branch.in_role, "a message is open already")
                branch.in_role = branch.own_role = True
            case RoleEnd():
                self.need(branch.own_role, "no message of this branch is open")
                branch.in_role = branch.own_role = False
            case Gen():
                self.gen(node)
                self.bind(node.var)
            case Select():
                self.name(node.name)
                self.need(bool(node.options), "a select without options")
                self.options(node.options)
                self.bind(node.var)
            case Fork():
                self.fork(node, branch)
            case Join():
                self.join(node, branch)

    def name(self, name: str) -> None:
        self.need(NAME.fullmatch(name) is not None, f"{name!r} cannot name a variable")

    def options(self, options: Sequence[str]) -> None:
        self.need(len(options) <= MAX_OPTIONS, f"more than {MAX_OPTIONS} options")
        distinct = len(set(options)) == len(options) and all(options)
        self.need(distinct, "two options are the same, or one is empty")

    def gen(self, node: Gen) -> None:
        self.name(node.name)
        if node.grammar is None:
            self.need(node.value == "text", "only a grammar makes sure that a text is JSON")
            return
        params = node.params
        stops = params.finish == "valid" and (params.stop or params.stop_token_ids)
        self.need(not stops, "a stop could end its output before the grammar does")
        if node.grammar.kind == "choices":
            try:
                texts: object = json.loads(node.grammar.source)
            except (ValueError, RecursionError):
                texts = None
            listed = isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)
            self.need(bool(listed), "choices are a JSON list of texts, at least one")
            assert isinstance(texts, list)
            self.options(texts)

    def fork(self, node: Fork, branch: _Branch) -> None:
        count = len(node.children)
        self.need(count <= MAX_FORK, f"{count} branches in a fork, which has at most {MAX_FORK}")
        self.need(branch.depth < MAX_DEPTH, f"forks nest deeper than {MAX_DEPTH}")
        for child in node.children:
            self.need(child not in self.branches, f"branch {child} is forked twice")
            self.need(0 <= child < MAX_ID, f"{child} is no number of a branch")
            self.branches[child] = _Branch(in_role=branch.in_role, depth=branch.depth + 1)
            branch.children.append(child)

    def join(self, node: Join, branch: _Branch) -> None:
        children = set(branch.children)
        for child in node.children:
            self.need(child in children, f"branch {child} is no child of branch {node.branch}")
            self.need(not self.branches[child].joined, f"branch {child} is joined twice")
            self.close(child)

    def close(self, branch: int) -> None:
        self.branches[branch].joined = True
        for child in self.branches[branch].children:
            self.close(child)

    def result(self, result: Result) -> None:
        match result:
            case ValueOf():
                self.variable(result.var)
            case ArgOf():
                self.argument(result.name)
            case TextOf():
                self.pieces(result.pieces)
            case ListOf():
                for item in result.items:
                    self.result(item)
            case DictOf():
                for item in result.items.values():
                    self.result(item)
            case Constant():
                pass


def validate(program: Program) -> None:
    """Raise ProgramError, naming the node, unless all that this file's head says is true."""
    check = _Checker(program)
    check.where = program.name
    check.need(len(check.params) == len(program.params), "two arguments have the same name")
    check.need(len(program.nodes) <= MAX_NODES, f"more than {MAX_NODES} nodes")
    for index, node in enumerate(program.nodes):
        check.where = f"node {index} ({type(node).__name__}) of {program.name}"
        check.node(node)
    check.where = f"the result of {program.name}"
    check.result(program.result)


def arguments(program: Program) -> Iterator[Arg]:
    """Each place where the program's text or result reads an argument."""
    for node in program.nodes:
        if isinstance(node, Text):
            yield from (p for p in node.pieces if isinstance(p, Arg))
    pending: list[Result] = [program.result]
    while pending:
        result = pending.pop()
        match result:
            case TextOf():
                yield from (p for p in result.pieces if isinstance(p, Arg))
            case ArgOf():
                yield Arg(result.name, result.path)
            case ListOf():
                pending.extend(result.items)
            case DictOf():
                pending.extend(result.items.values())
            case _:
                pass


def argument_value(values: Mapping[str, Any], name: str, path: tuple[str | int, ...]) -> Any:
    """The argument, or the part of it that `path` leads to."""
    value = values[name]
    for key in path:
        value = value[key]
    return value
