"""What `python -m benchmarks.cpu` found: its file, its table with goals and ratios, its chart.

A ratio says how many times as fast sgen is: of tokens a second ours / the peer's, of times the
peer's / ours.  Of a peer's settings the best counts.  Only rows of the same n are compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from benchmarks.cpu_load import Row
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
    seed: str
    bandwidth: float  # bytes a second, all cores
    bandwidth_one: float
    matrix_bytes: int
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


def table(report: Report) -> str:
    """Markdown."""
    peers = [p for p in PEERS if report.rows.get(p)]
    head = ["workload", "n", "sgen"]
    for peer in peers:
        head += [PEERS[peer], "ratio", "goal", "met"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for workload in GOALS:
        ours = report.best("sgen", workload)
        if ours is None and not any(report.best(p, workload) for p in peers):
            continue
        cells = [WHAT[workload], str(ours.n) if ours else "", _score(ours)]
        for peer in peers:
            cells += _against(report, peer, workload, ours.n if ours else None)
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _against(report: Report, peer: str, workload: str, n: int | None) -> list[str]:
    """What the peer did, of the same n where there is such a row."""
    row = report.best(peer, workload, n) or report.best(peer, workload)
    ratio, goal = report.ratio(peer, workload), GOALS[workload]
    shown = f"{_score(row)} ({row.setting}, n={row.n})" if row else "—"
    if ratio is None:
        return [shown, "—", f"{goal[peer]:g}x", "—"]
    return [shown, f"{ratio:.2f}x", f"{goal[peer]:g}x", "yes" if ratio >= goal[peer] else "no"]


def _score(row: Row | None) -> str:
    if row is None:
        return "—"
    digits = 1 if row.score < 1000 else 0
    return f"{row.score:.{digits}f} ({row.low:.{digits}f}–{row.high:.{digits}f}) {row.unit}"


def facts(report: Report) -> Iterator[str]:
    """The lines below the table."""
    one, all_cores = report.bandwidth_one / 1e9, report.bandwidth / 1e9
    yield f"memory reads {one:.1f} GB/s by one core, {all_cores:.1f} by {report.cores}"
    weights, kv = report.matrix_bytes / 1e6, report.kv_bytes / 1e3
    yield f"a token reads {weights:.1f} MB of weights and {kv:.1f} kB for each token before it"
    for name in ("sgen", "llamacpp"):
        share, row = report.share(name), report.best(name, "single")
        if share is not None and row is not None:
            goal = f" (goal {SHARE_GOAL:.0%})" if name == "sgen" else " (weights alone)"
            rate = share * report.bandwidth / 1e9
            yield f"{PEERS.get(name, name)}, one stream: {rate:.1f} GB/s, {share:.0%}{goal}"
    for name in ("sgen", *PEERS):
        yield from _constrained(report, name)
    if report.startup is not None:
        yield f"command to first token: {report.startup:.2f} s (goal {STARTUP_GOAL} s)"
    if report.memory is not None:
        peak, beyond = report.memory.peak / 1e6, report.memory.beyond_torch / 1e6
        yield (
            f"memory with {report.memory.cache_tokens:,} tokens in the cache: {peak:.0f} MB at "
            f"most, {beyond:.0f} MB beyond torch (goal {MEMORY_GOAL / 1e6:.0f})"
        )
    for name, failures in report.failures.items():
        for failure in failures:
            yield f"{PEERS.get(name, name)} failed: {failure}"
    loads = [r.load_before for rows in report.rows.values() for r in rows]
    if loads:
        yield f"load averages before the workloads: {min(loads)} to {max(loads)}"


def _constrained(report: Report, name: str) -> Iterator[str]:
    """How much of its JSON was valid, and what the constraint cost."""
    row, alone = report.best(name, "json"), report.best(name, "json1")
    if row is not None:
        shares = ", ".join(
            f"{key} {value:.0%}"
            for key in ("valid", "cut", "refused")
            if (value := row.more.get(key)) is not None
        )
        yield f"{PEERS.get(name, name)}, json: {shares}"
    if alone is not None and (overhead := alone.more.get("overhead")) is not None:
        yield f"{PEERS.get(name, name)}, json1: {1 - overhead:.2f}x as fast as unconstrained"


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
        notes=tuple(_settings(report, peers)),
        goal="goal",
    )


def _short(unit: str) -> str:
    return unit if unit == "ms" else "tok/s"


def _settings(report: Report, peers: list[str]) -> Iterator[str]:
    if "vllm" in peers:
        yield "vLLM-CPU runs the same weights dequantized to fp32; the others read the GGUF file."
    if "llamacpp" in peers:
        yield "llama.cpp at the better of its settings for each workload."
