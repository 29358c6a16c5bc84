"""`sgen bench`: how fast a model runs on this machine, beside what the machine's memory allows.

Prints a table and a chart; `--out FILE` writes the figures, `--from FILE` shows them again, and
`--chart FILE.svg` draws them.  What was measured before Ctrl-C or a failure is printed and written
too, and says so.  One stream reads all weights for each token, so its speed is given as a share of
the memory's bandwidth, which is measured first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

import sgen
from sgen import bench_files as files
from sgen import bench_machine as machine
from sgen.bench_chart import Bar, Chart, Group, svg, text_chart
from sgen.bench_runs import WORKLOADS, Result, measure
from sgen.engine import Engine
from sgen.errors import InvalidRequestError, ModelFileError, SgenError
from sgen.runtime.compute import Compute
from sgen.runtime.hub import resolve_model
from sgen.runtime.loader import load_model

CACHE_TOKENS = 16384
QUIET = 0.5
"""A load average above this, before anything was measured, means that others were at work."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that one run of `sgen bench` found; bytes and seconds."""

    version: str
    model: str
    processor: str
    cores: int
    load_before: float
    bandwidth: float  # bytes a second, all cores
    bandwidth_one: float  # one core
    token_bytes: float  # that a token of the lone stream reads
    results: tuple[Result, ...]
    compute: str = ""  # what computed, as `ModelInfo` says it
    startup: float | None = None
    memory: machine.Memory | None = None
    stopped: str = ""  # why there is no more of it, if the run came to no good end

    @property
    def bandwidth_share(self) -> float | None:
        """Of the lone stream."""
        rates = [r.score for r in self.results if r.name == "single"]
        return rates[0] * self.token_bytes / self.bandwidth if rates else None


class Options(msgspec.Struct, frozen=True):
    """What to measure, and how; no `only` means all workloads."""

    model: str | None = None
    only: tuple[str, ...] = ()
    repeat: int = 5
    quick: bool = False  # without start-up time and memory
    compute: Compute = Compute()

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in WORKLOADS:
                raise InvalidRequestError(
                    f"there is no workload {name!r}",
                    param="only",
                    hint=f"they are {', '.join(WORKLOADS)}",
                )
        if self.repeat < 1:
            raise InvalidRequestError("repeat must be at least 1", param="repeat")


def run(options: Options, out: str | None, chart: str | None, *, as_json: bool) -> int:
    """Measure, print, and write to the files that were named.

    InvalidRequestError, before anything is measured, if one cannot be written.  A run that is
    interrupted or fails keeps what it had, and raises; with `as_json` that is not printed, since
    the error is.
    """
    _check_files(out, chart)
    report = None
    try:
        for known in _reports(options, quiet=as_json):
            report = known
    except (KeyboardInterrupt, Exception) as error:
        if report is not None:
            report = msgspec.structs.replace(report, stopped=_reason(error))
            if not as_json:
                print(summary(report))
            _write(report, out, chart)
        raise
    assert report is not None
    _finish(report, out, chart, as_json=as_json)
    return 0


def show(file: str, out: str | None, chart: str | None, *, as_json: bool) -> int:
    """Print, and write, what an earlier run has written; ModelFileError if it is something else."""
    _check_files(out, chart)
    try:
        report = msgspec.json.decode(Path(file).read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelFileError(f"no figures of `sgen bench`: {error}", path=file) from None
    _finish(report, out, chart, as_json=as_json)
    return 0


def _reports(options: Options, *, quiet: bool) -> Iterator[Report]:
    """What is known after each workload, and after all of them the rest."""

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    path, compute = resolve_model(options.model), options.compute
    load, cores = machine.load_average(), machine.num_cores()
    if load > QUIET:
        say(f"The load average is {load:.1f}: something else is running, and figures will be low.")
    say(f"the memory's bandwidth, {cores} cores")
    one, all_cores = machine.read_bandwidth(1), machine.read_bandwidth(cores)
    loaded = load_model(path, compute=compute)
    report = Report(
        version=sgen.__version__,
        model=loaded.name,
        processor=machine.processor(),
        cores=cores,
        load_before=round(load, 2),
        bandwidth=all_cores,
        bandwidth_one=one,
        token_bytes=machine.matrix_bytes(path),
        results=(),
    )
    with Engine(loaded) as engine:
        say(f"computed by {engine.info.compute}")
        report = msgspec.structs.replace(report, compute=engine.info.compute)
        for name in options.only or WORKLOADS:
            say(f"{name}: {WORKLOADS[name].what}, {options.repeat} runs")
            result = measure(engine, name, options.repeat)
            report = _with_result(report, result, loaded.model.kv_bytes_per_token)
            yield report
    if not options.quick:
        say("start-up time and memory, in processes of their own")
        startup = machine.startup_seconds(path, compute)
        yield (report := msgspec.structs.replace(report, startup=startup))
        memory = machine.memory_of(path, compute, cache_tokens=CACHE_TOKENS)
        yield msgspec.structs.replace(report, memory=memory)


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return error.message if isinstance(error, SgenError) else repr(error)


def _with_result(report: Report, result: Result, kv_bytes_per_token: int) -> Report:
    """One more result; a token of the lone stream reads its keys and values too."""
    token_bytes = report.token_bytes
    if result.name == "single":
        token_bytes += kv_bytes_per_token * result.context
    return msgspec.structs.replace(
        report, results=(*report.results, result), token_bytes=token_bytes
    )


def _check_files(out: str | None, chart: str | None) -> None:
    for file, option in ((out, "--out"), (chart, "--chart")):
        if file:
            files.check_writable(file, option)


def _finish(report: Report, out: str | None, chart: str | None, *, as_json: bool) -> None:
    print(_encoded(report) if as_json else summary(report))
    _write(report, out, chart)


def _write(report: Report, out: str | None, chart: str | None) -> None:
    if out:
        files.write(out, "--out", _encoded(report) + "\n")
    if chart:
        files.write(chart, "--chart", svg(chart_of(report)))


def _encoded(report: Report) -> str:
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode()


def summary(report: Report) -> str:
    """The table, the chart, and the facts below them."""
    lines = [
        f"{report.model} on {report.processor}, {report.cores} cores",
        "",
        f"{'workload':<9}  {'median':>8}  {'lowest':>8}  {'highest':>8}  unit",
    ]
    for r in report.results:
        note = "" if r.valid is None else f", {r.valid:.0%} valid"
        lines.append(
            f"{r.name:<9}  {r.score:8.1f}  {r.low:8.1f}  {r.high:8.1f}  {r.unit}  ({r.what}{note})"
        )
    chart = chart_of(report)
    return "\n".join([*lines, "", text_chart(chart), "", *chart.notes])


def chart_of(report: Report) -> Chart:
    """Rates as bars, and the other facts as notes."""
    rates = [r for r in report.results if r.unit != "ms"]
    groups = tuple(Group(r.name, (Bar(r.score, f"{r.score:,.0f} {r.unit}"),)) for r in rates)
    return Chart(
        title=f"sgen {report.version}: {report.model}",
        subtitle=f"{report.processor}, {report.cores} cores; medians",
        series=("sgen",),
        groups=groups,
        notes=tuple(_facts(report)),
    )


def _facts(report: Report) -> list[str]:
    facts = [f"computed by {report.compute}"] if report.compute else []
    share = report.bandwidth_share
    one, all_cores = report.bandwidth_one / 1e9, report.bandwidth / 1e9
    gb = f"memory reads {all_cores:.1f} GB/s ({one:.1f} by one core)"
    facts.append(f"{gb}, one stream {share:.0%} of it" if share is not None else gb)
    facts += [f"{r.what}: {r.score:.0f} ms" for r in report.results if r.unit == "ms"]
    if report.startup is not None:
        facts.append(f"from the command to its first token: {report.startup:.1f} s")
    if report.memory is not None:
        beyond, peak = report.memory.beyond_torch / 1e6, report.memory.peak / 1e6
        facts.append(
            f"memory with {report.memory.cache_tokens:,} tokens in the cache: "
            f"{peak:.0f} MB at most, {beyond:.0f} MB beyond torch"
        )
    facts.append(f"load average before: {report.load_before:.1f}")
    if report.stopped:
        facts.append(f"not all that was asked for: {report.stopped}")
    return facts
