"""What `python -m benchmarks.cpu` found: its file, its table with goals and ratios, its chart.

A ratio says how many times as fast sgen is: of tokens a second ours / the peer's, of times the
peer's / ours.  Of a peer's settings the best counts.  Only rows of the same n are compared.
A goal is met if its ratio is reached and what else it asks for is true (`shortfall`).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from benchmarks.cpu_load import OWN_SIZES, Row
from sgen.bench_chart import Bar, Chart, Group
from sgen.bench_machine import Memory

PEERS = {"llamacpp": "llama.cpp", "vllm": "vLLM-CPU"}

GOALS = {
    "single": {"llamacpp": 2.0, "vllm": 6.0},
    "prefill": {"llamacpp": 8.0, "vllm": 2.0},
    "fewshot": {"llamacpp": 12.0, "vllm": 6.0},
    "tree": {"llamacpp": 12.0, "vllm": 6.0},
    "chat": {"llamacpp": 6.0, "vllm": 4.0},
    "json": {"llamacpp": 8.0, "vllm": 8.0},
    "json1": {"llamacpp": 2.0, "vllm": 6.0},
    "ttft": {"llamacpp": 1.0, "vllm": 10.0},
}
"""Ratios to reach."""

SHARE_GOAL = 0.8  # of the memory's bandwidth, one stream
STARTUP_GOAL = 3.5  # seconds
MEMORY_GOAL = 600e6  # bytes beyond torch

FLAW = "†"
"""Behind a score some of whose runs or requests failed; the facts say how many."""

WHAT = {
    "single": "one stream",
    "prefill": "prefill",
    "fewshot": "few-shot, shared prefix",
    "tree": "tree of thought",
    "chat": "chat, 16 at once",
    "json": "JSON, 8 at once",
    "json1": "JSON, one stream",
    "ttft": "first token, warm",
}


class Report(msgspec.Struct, kw_only=True):
    """One run; bytes and seconds.  `rows` and `failures` are by contender: sgen, or a peer."""

    version: str
    when: str
    model: str
    processor: str
    cores: int
    compute: str  # what was asked of sgen
    computed: str = ""  # what sgen then did, as `ModelInfo.compute` says it
    seed: str
    bandwidth: float  # bytes a second, all cores
    bandwidth_one: float
    matrix_bytes: int
    peers_bandwidth: float | None = None  # in the earliest run that rows of peers are from
    kv_bytes: int = 0  # of a token of the context, in sgen
    rows: dict[str, list[Row]] = {}
    failures: dict[str, list[str]] = {}
    startup: float | None = None
    memory: Memory | None = None

    def best(self, name: str, workload: str, n: int | None = None) -> Row | None:
        """A contender's row: of the setting that did best, of those with `n` items if given."""
        rows = [r for r in self.rows.get(name, ()) if r.workload == workload and n in (None, r.n)]
        if not rows:
            return None
        return (min if is_time(rows[0]) else max)(rows, key=lambda r: r.score)

    def ratio(self, peer: str, workload: str) -> float | None:
        """None if there are no two rows that did the same."""
        ours = self.best("sgen", workload)
        other = self.best(peer, workload, ours.n) if ours else None
        if ours is None or other is None:
            return None
        return other.score / ours.score if is_time(ours) else ours.score / other.score

    def share(self, name: str) -> float | None:
        """Of the bandwidth, that a lone stream uses: of contenders that read the same file."""
        ours = self.best("sgen", "single")
        row = self.best(name, "single", ours.n if ours else None)
        if row is None or name == "vllm":
            return None
        kv = self.kv_bytes if name == "sgen" else 0
        return row.score * (self.matrix_bytes + kv * row.context) / self.bandwidth


def is_time(row: Row) -> bool:
    """Less is better."""
    return row.unit == "ms"


def differences(report: Report, other: Report) -> list[str]:
    """Why rows of the two must not stand in one table."""
    names = ("model", "processor", "cores")
    both = ((name, getattr(report, name), getattr(other, name)) for name in names)
    return [f"{name} {ours!r} and {theirs!r}" for name, ours, theirs in both if ours != theirs]


def shortfall(row: Row) -> str:
    """What one of our rows lacks, whatever its speed, of what its goal asks for; "" if nothing.

    `json` must be valid in every request of every run, and `json1` not slower than without a
    constraint, with no allowance for noise.
    """
    if row.workload == "json":
        if row.failed_runs:
            return f"{row.failed_runs} of {row.runs} runs failed"
        if (valid := _worst(row, "valid")) != 1.0:
            return "validity unknown" if valid is None else f"{valid:.1%} valid"
        if refused := _worst(row, "refused"):
            return f"{refused:.1%} refused"
    if row.workload == "json1":
        overhead = row.more.get("overhead")
        if overhead is None:
            return "unconstrained speed unknown"
        if overhead > 0:
            return f"{1 - overhead:.3f}x of unconstrained"
    return ""


def _worst(row: Row, key: str) -> float | None:
    """Of all runs; a file that has only the median gives that."""
    return row.more.get(f"{key}_worst", row.more.get(key))


def flaws(row: Row) -> str:
    """What failed in the runs of a row; "" if nothing."""
    errors = row.more.get("errors") or 0
    found = []
    if row.failed_runs:
        found.append(f"{row.failed_runs} of {row.runs} runs failed")
    if errors:
        found.append(f"requests that failed in the runs that count: {errors:g}")
    return ", ".join(found)


def table(report: Report) -> str:
    """Markdown."""
    peers = [p for p in PEERS if report.rows.get(p)]
    head = ["workload", "n (load.py's)", "sgen"]
    for peer in peers:
        head += [PEERS[peer], "ratio", "goal", "met"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for workload in GOALS:
        ours = report.best("sgen", workload)
        if ours is None and not any(report.best(p, workload) for p in peers):
            continue
        cells = [WHAT[workload], _items(ours), _score(ours)]
        for peer in peers:
            cells += _against(report, peer, workload, ours.n if ours else None)
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _items(row: Row | None) -> str:
    """The n of a row, with load.py's own behind it where that is another."""
    if row is None:
        return ""
    own = OWN_SIZES.get(row.workload, row.n)
    return str(row.n) if own == row.n else f"{row.n} ({own})"


def _against(report: Report, peer: str, workload: str, n: int | None) -> list[str]:
    """What the peer did, of the same n where there is such a row."""
    row = report.best(peer, workload, n) or report.best(peer, workload)
    ours, ratio, goal = report.best("sgen", workload), report.ratio(peer, workload), GOALS[workload]
    shown = "—"
    if row:
        taken = f", {row.when[:10]}" if row.when[:10] != report.when[:10] else ""
        shown = f"{_score(row)} ({row.setting}, n={row.n}{taken})"
    if ratio is None or ours is None:
        return [shown, "—", f"{goal[peer]:g}x", "—"]
    lacking = shortfall(ours)
    met = "no" if ratio < goal[peer] else f"no: {lacking}" if lacking else "yes"
    return [shown, f"{ratio:.2f}x", f"{goal[peer]:g}x", met]


def _score(row: Row | None) -> str:
    if row is None:
        return "—"
    digits = 1 if row.score < 1000 else 0
    mark = f" {FLAW}" if flaws(row) else ""
    return f"{row.score:.{digits}f} ({row.low:.{digits}f}–{row.high:.{digits}f}) {row.unit}{mark}"


def facts(report: Report) -> Iterator[str]:
    """The lines below the table."""
    yield f"sgen: {report.computed or f'asked for {report.compute}; what it did was not kept'}"
    yield from _settings(report)
    one, all_cores = report.bandwidth_one / 1e9, report.bandwidth / 1e9
    yield f"memory reads {one:.1f} GB/s by one core, {all_cores:.1f} by {report.cores}"
    if report.peers_bandwidth is not None:
        yield (
            f"memory read {report.peers_bandwidth / 1e9:.1f} GB/s in the earliest run that rows "
            "of peers are from"
        )
    weights, kv = report.matrix_bytes / 1e6, report.kv_bytes / 1e3
    yield f"a token reads {weights:.1f} MB of weights and {kv:.1f} kB for each token before it"
    for name in ("sgen", "llamacpp"):
        share, row = report.share(name), report.best(name, "single")
        if share is not None and row is not None:
            goal = " (weights alone)"
            if name == "sgen":
                goal = _verdict(f"{SHARE_GOAL:.0%}", share >= SHARE_GOAL)
            rate = share * report.bandwidth / 1e9
            yield f"{PEERS.get(name, name)}, one stream: {rate:.1f} GB/s, {share:.0%}{goal}"
    for name in ("sgen", *PEERS):
        yield from _constrained(report, name)
    if report.startup is not None:
        verdict = _verdict(f"{STARTUP_GOAL} s", report.startup <= STARTUP_GOAL)
        yield f"command to first token: {report.startup:.2f} s{verdict}"
    if report.memory is not None:
        peak, beyond = report.memory.peak / 1e6, report.memory.beyond_torch / 1e6
        yield (
            f"memory with {report.memory.cache_tokens:,} tokens in the cache: {peak:.0f} MB at "
            f"most, {beyond:.0f} MB beyond torch"
            + _verdict(f"{MEMORY_GOAL / 1e6:.0f} MB", beyond <= MEMORY_GOAL / 1e6)
        )
    yield from _marked(report, *report.rows)
    for name, failures in report.failures.items():
        for failure in failures:
            yield f"{PEERS.get(name, name)} failed: {failure}"
    loads = [r.load_before for rows in report.rows.values() for r in rows]
    if loads:
        yield f"load averages before the workloads: {min(loads)} to {max(loads)}"


def _verdict(goal: str, met: bool) -> str:
    return f" (goal {goal}: {'met' if met else 'not met'})"


def _marked(report: Report, *names: str) -> Iterator[str]:
    """What the marks behind scores mean, row by row."""
    for name in names:
        for row in report.rows.get(name, ()):
            if found := flaws(row):
                who = PEERS.get(name, name)
                yield f"{FLAW} {who} ({row.setting}), {row.workload}, n={row.n}: {found}"


def _constrained(report: Report, name: str) -> Iterator[str]:
    """How much of its JSON was valid, and what the constraint cost."""
    row, alone = report.best(name, "json"), report.best(name, "json1")
    if row is not None:
        shares = ", ".join(
            f"{key} {value:.1%}"
            for key in ("valid", "cut", "refused")
            if (value := row.more.get(key)) is not None
        )
        worst = _worst(row, "valid")
        if worst is not None and worst != row.more.get("valid"):
            shares += f", valid {worst:.1%} in the worst run"
        kept = "every run" if "valid_worst" in row.more else "the median run, all that was kept"
        goal = _verdict(f"100% valid in {kept}", not shortfall(row)) if name == "sgen" else ""
        yield f"{PEERS.get(name, name)}, json: {shares}{goal}"
    if alone is not None and (overhead := alone.more.get("overhead")) is not None:
        goal = _verdict("1x or more, no tolerance", overhead <= 0) if name == "sgen" else ""
        speed = f"{1 - overhead:.3f}x as fast as unconstrained"
        yield f"{PEERS.get(name, name)}, json1: {speed}{goal}"


def chart(report: Report) -> Chart:
    """Ratios to the peers as bars, with the goals."""
    peers = [p for p in PEERS if report.rows.get(p)]
    groups = []
    for workload, label in WHAT.items():
        bars = []
        for i, peer in enumerate(peers):
            ratio, ours = report.ratio(peer, workload), report.best("sgen", workload)
            other = report.best(peer, workload, ours.n) if ours else None
            if ratio is None or ours is None or other is None:
                continue
            text = f"{ratio:.1f}×  ({ours.score:,.0f} / {other.score:,.0f} {_short(ours.unit)})"
            if flaws(ours) or flaws(other):
                text += f" {FLAW}"
            bars.append(Bar(ratio, text, i, GOALS[workload][peer]))
        if bars:
            groups.append(Group(label, tuple(bars)))
    return Chart(
        title=f"Times as fast as its peers: {report.model}",
        subtitle=(
            f"sgen / peer on {report.processor}, {report.cores} cores; medians; {report.when[:10]}"
        ),
        series=tuple(f"× {PEERS[p]}" for p in peers),
        groups=tuple(groups),
        notes=tuple(_notes(report, peers)),
        goal="goal",
    )


def _short(unit: str) -> str:
    return unit if unit == "ms" else "tok/s"


def _notes(report: Report, peers: list[str]) -> Iterator[str]:
    """What the chart says below its bars; short lines, for a chart does not wrap them."""
    if report.computed:
        yield f"sgen: {report.computed}."
    yield from _settings(report)
    if "vllm" in peers:
        yield "vLLM-CPU runs the same weights dequantized to fp32; the others read the GGUF file."
    rows = [row for workload in GOALS if (row := report.best("sgen", workload))]
    if smaller := [f"{r.workload} {_items(r)}" for r in rows if "(" in _items(r)]:
        yield f"Items of a run, with load.py's own n: {', '.join(smaller)}."
    for peer in peers:
        days = sorted({r.when[:10] for r in report.rows[peer]} - {report.when[:10]})
        if days:
            yield f"{PEERS[peer]} was measured on {', '.join(days)}."
    yield from _marked(report, "sgen", *peers)


def _settings(report: Report) -> Iterator[str]:
    """How often and how each was run, and where the better of several settings counts."""
    counts = []
    for name, rows in report.rows.items():
        if good := sorted({r.runs - r.failed_runs for r in rows}):
            counts.append(f"{PEERS.get(name, name)} {' or '.join(map(str, good))}")
    yield f"Runs that a median is of: {', '.join(counts)}."
    for peer in PEERS:
        tried: dict[tuple[str, ...], list[str]] = {}
        for workload in GOALS:
            rows = [r for r in report.rows.get(peer, ()) if r.workload == workload]
            if rows:
                tried.setdefault(tuple(dict.fromkeys(r.setting for r in rows)), []).append(workload)
        if tried:
            parts = (
                f"{', '.join(workloads)}: {'the better of ' if len(names) > 1 else ''}"
                + " and ".join(names)
                for names, workloads in tried.items()
            )
            yield f"{PEERS[peer]}: {'; '.join(parts)}."
