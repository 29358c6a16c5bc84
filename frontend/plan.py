"""What is known of a program before it runs, and how to say it.

A `Plan` is computed from IR nodes alone.  Bounds count generated tokens; a select scores its
options and generates none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from sgen.frontend import ir
from sgen.frontend.events import variable_key
from sgen.protocol import Backend, PromptPart, RoleEnd, RoleStart, SamplingParams, Text

REORDER_CHARACTERS = 64
"""Constant text of this length after an argument is worth a hint."""


@dataclass(frozen=True)
class Plan:
    """What will happen, as far as it is known: up to `note`, or all of it if that is empty.

    `prefix` is what every run starts with, whatever its arguments; `branches` counts the root
    and all that is forked; `grammars` are the constraints as (variable, label); `max_new_tokens`
    is None where there is no bound.
    """

    name: str
    params: tuple[str, ...]
    nodes: tuple[ir.Node, ...]
    note: str
    prefix: tuple[PromptPart, ...]
    branches: int
    grammars: tuple[tuple[str, str], ...]
    max_new_tokens: int | None
    warnings: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the whole program is known, so that it can run from its IR alone."""
        return not self.note

    @property
    def prefix_text(self) -> str:
        """The text of the constant prefix, without roles."""
        return "".join(part.text for part in self.prefix if isinstance(part, Text))

    def explain(self, backend: Backend | None = None) -> str:
        """The plan for a reader; a backend adds token counts and compiles the grammars.

        GrammarError if the backend refuses one.
        """
        lines = [f"program {self.name}({', '.join(self.params)})"]
        lines += self._prefix_lines(backend)
        lines.append(f"branches: {self.branches}")
        lines += [f"  {line}" for line in _tree(self.nodes, ir.ROOT, _minima(self.nodes, backend))]
        bound = "unbounded" if self.max_new_tokens is None else f"at most {self.max_new_tokens}"
        lines.append(f"new tokens: {bound}")
        if self.note:
            lines.append(f"known up to here, then step by step: {self.note}")
        lines += [f"hint: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _prefix_lines(self, backend: Backend | None) -> list[str]:
        if not self.prefix:
            return ["constant prefix: none"]
        size = f"{len(self.prefix_text)} characters"
        if backend is not None:
            size += f", {backend.count_tokens(self.prefix)} tokens"
        return [f"constant prefix: {size}: {_pieces((ir.Lit(self.prefix_text),), {})}"]


def make_plan(
    name: str, params: tuple[str, ...], nodes: tuple[ir.Node, ...], note: str = ""
) -> Plan:
    """The plan of these nodes."""
    bounds = {node.name: token_bound(node) for node in nodes if isinstance(node, ir.Gen)}
    unbounded = [name for name, bound in bounds.items() if bound is None]
    total = sum(token_bound(n) or 0 for n in nodes if isinstance(n, ir.Gen))
    return Plan(
        name=name,
        params=params,
        nodes=nodes,
        note=note,
        prefix=_prefix(nodes),
        branches=1 + sum(len(n.children) for n in nodes if isinstance(n, ir.Fork)),
        grammars=tuple(
            (node.name, grammar_label(node))
            for node in nodes
            if isinstance(node, ir.Select) or (isinstance(node, ir.Gen) and node.grammar)
        ),
        max_new_tokens=None if unbounded else total,
        warnings=(*_reorder_hints(nodes), *_bound_hints(unbounded)),
    )


def token_bound(node: ir.Gen) -> int | None:
    """The most tokens that it can generate: by max_tokens, or by the longest of its choices
    (a token is at least a byte, and one more may end the text)."""
    bounds = [] if node.params.max_tokens is None else [node.params.max_tokens]
    if node.grammar is not None and node.grammar.kind == "choices":
        options: list[str] = json.loads(node.grammar.source)
        bounds.append(max(len(o.encode()) for o in options) + 1)
    return min(bounds, default=None)


def grammar_label(node: ir.Gen | ir.Select) -> str:
    """The constraint in a few words."""
    if isinstance(node, ir.Select):
        return f"one of {_shown(node.options)}, by {node.by}"
    if node.grammar is None:
        return "free text"
    if node.grammar.kind == "choices":
        return f"one of {_shown(tuple(json.loads(node.grammar.source)))}"
    return f"{node.grammar.kind} {_cut(node.grammar.source, 60)}"


def _prefix(nodes: tuple[ir.Node, ...]) -> tuple[PromptPart, ...]:
    """What stands before the first argument or generation of the root branch."""
    parts: list[PromptPart] = []
    for node in nodes:
        if node.branch != ir.ROOT:
            continue
        match node:
            case ir.RoleStart():
                parts.append(RoleStart(node.role))
            case ir.RoleEnd():
                parts.append(RoleEnd())
            case ir.Text():
                literal = _leading(node.pieces)
                if literal:
                    last = parts.pop() if parts and isinstance(parts[-1], Text) else None
                    parts.append(Text(last.text + literal if isinstance(last, Text) else literal))
                if not all(isinstance(p, ir.Lit) for p in node.pieces):
                    break
            case ir.Fork() | ir.Join():
                pass
            case _:
                break
    return tuple(parts)


def _leading(pieces: tuple[ir.Piece, ...]) -> str:
    texts: list[str] = []
    for piece in pieces:
        if not isinstance(piece, ir.Lit):
            break
        texts.append(piece.text)
    return "".join(texts)


def _reorder_hints(nodes: tuple[ir.Node, ...]) -> Iterator[str]:
    """Constant text that rows cannot share, for an argument stands before it."""
    argument = ""
    length = 0
    for node in nodes:
        if node.branch != ir.ROOT or isinstance(node, (ir.RoleStart, ir.RoleEnd)):
            continue
        if not isinstance(node, ir.Text):
            break
        for piece in node.pieces:
            if isinstance(piece, ir.Arg):
                argument = argument or piece.name
            elif isinstance(piece, ir.Lit) and argument:
                length += len(piece.text)
    if length >= REORDER_CHARACTERS:
        yield (
            f"{length} characters of constant text follow the argument {argument!r}; before it, "
            "all runs would share them"
        )


def _bound_hints(unbounded: list[str]) -> Iterator[str]:
    if unbounded:
        names = ", ".join(dict.fromkeys(unbounded))
        yield f"without max_tokens, only the model or the context's end stops: {names}"


def _minima(nodes: tuple[ir.Node, ...], backend: Backend | None) -> Mapping[int, int]:
    """The least tokens of each constrained generation, if there is a backend to ask."""
    if backend is None:
        return {}
    found = ((n.var, n.grammar) for n in nodes if isinstance(n, ir.Gen))
    return {var: backend.check_grammar(g) for var, g in found if g is not None}


def _tree(nodes: tuple[ir.Node, ...], branch: int, minima: Mapping[int, int]) -> Iterator[str]:
    """The branch's nodes, one a line; forked branches stand indented, equal ones once."""
    names = _variables(nodes)
    for node in nodes:
        if node.branch != branch:
            continue
        match node:
            case ir.Text():
                yield f"text      {_pieces(node.pieces, names)}"
            case ir.RoleStart():
                yield f"message   {node.role}"
            case ir.RoleEnd():
                yield "end"
            case ir.Gen():
                yield f"gen       {node.name}: {_gen(node, minima)}"
            case ir.Select():
                yield f"select    {node.name}: {grammar_label(node)}"
            case ir.Fork():
                yield f"fork      {len(node.children)} branches"
                yield from _children(nodes, node, minima)
            case ir.Join():
                yield f"join      {len(node.children)} branches"


def _variables(nodes: tuple[ir.Node, ...]) -> Mapping[int, str]:
    """The variables by the names that they have in `Run.vars`."""
    paths: dict[int, tuple[int, ...]] = {ir.ROOT: ()}
    births: dict[int, int] = {}
    names: dict[int, str] = {}
    for node in nodes:
        if isinstance(node, ir.Fork):
            for child in node.children:
                number = births.get(node.branch, 0)
                births[node.branch] = number + 1
                paths[child] = (*paths[node.branch], number)
        elif isinstance(node, (ir.Gen, ir.Select)):
            names[node.var] = variable_key(paths[node.branch], node.name)
    return names


def _children(
    nodes: tuple[ir.Node, ...], fork: ir.Fork, minima: Mapping[int, int]
) -> Iterator[str]:
    trees = [list(_tree(nodes, child, minima)) for child in fork.children]
    start = 0
    for i in range(1, len(trees) + 1):
        if i == len(trees) or trees[i] != trees[start]:
            yield f"  branch {start}" if i == start + 1 else f"  branches {start} to {i - 1}"
            yield from (f"    {line}" for line in trees[start])
            start = i


def _gen(node: ir.Gen, minima: Mapping[int, int]) -> str:
    words = [grammar_label(node)]
    bound = token_bound(node)
    least = f"at least {minima[node.var]}, " if node.var in minima else ""
    words.append(f"{least}at most {bound} tokens" if bound else f"{least}no bound")
    default = SamplingParams()
    for field in msgspec.structs.fields(SamplingParams):
        value = getattr(node.params, field.name)
        if field.name != "max_tokens" and value != getattr(default, field.name):
            words.append(f"{field.name}={value!r}")
    return ", ".join(words)


def _pieces(pieces: tuple[ir.Piece, ...], names: Mapping[int, str]) -> str:
    shown: list[str] = []
    for piece in pieces:
        match piece:
            case ir.Lit():
                shown.append(json.dumps(_cut(piece.text, 60), ensure_ascii=False))
            case ir.Arg():
                shown.append("{" + piece.name + "".join(f"[{k!r}]" for k in piece.path) + "}")
            case ir.Var():
                shown.append("{" + names.get(piece.var, f"#{piece.var}") + "}")
    return " ".join(shown)


def _shown(options: tuple[str, ...]) -> str:
    head = " | ".join(_cut(o, 24) for o in options[:6])
    return f"{head} | ... ({len(options)})" if len(options) > 6 else head


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
