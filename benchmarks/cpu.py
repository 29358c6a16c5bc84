"""sgen beside llama.cpp and vLLM on this machine's CPU: `python -m benchmarks.cpu [--start-peers]`.

Measures the memory's bandwidth, then the workloads of ../shared/peers/load.py: on sgen in this
process, then on each peer through its HTTP server, one at a time.  Prints ratios beside the goals;
medians of `--repeat` runs, each with its own seed.  `--out FILE` keeps every figure as soon as it
is there, `--from FILE` prints and draws them again, `--peers-from FILE` takes the peers' figures
from an earlier run of the same model on the same machine, and days that differ are said.
cpu_load.py says what is run, cpu_peers.py how peers are started.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import sgen
from benchmarks import cpu_load, cpu_peers, cpu_report
from benchmarks.cpu_report import Report
from sgen import bench_machine as machine
from sgen.bench_chart import svg
from sgen.cli import compute_options
from sgen.engine import Engine
from sgen.runtime.compute import Compute
from sgen.runtime.hub import resolve_model
from sgen.runtime.loader import load_model

CACHE_TOKENS = 16384
SHARED = Path(__file__).parent.parent.parent / "shared"


class Session:
    """One run of the benchmark: what was asked, and the report that it fills."""

    def __init__(self, args: argparse.Namespace, report: Report) -> None:
        self.args = args
        self.report = report
        self.load = cpu_load.load_module(args.shared)
        self.data = self.load.Data(args.shared)
        self.sizes = cpu_load.QUICK if args.quick else cpu_load.SIZES

    def run(self, name: str, client: Any, workloads: Sequence[str], repeat: int, how: str) -> None:
        """All workloads on one client; one that fails is noted, and the next one goes on."""
        asyncio.run(self._run(name, client, workloads, repeat, how))

    async def _run(
        self, name: str, client: Any, workloads: Sequence[str], repeat: int, how: str
    ) -> None:
        try:
            await cpu_load.warm_up(self.load, client, self.data, self.args.seed)
        except RuntimeError as error:
            self.failed(name, how, error)
            return
        for workload in workloads:
            try:
                row = await cpu_load.run(
                    self.load, client, self.data, workload, self.sizes[workload], repeat,
                    self.args.seed, how,
                )  # fmt: skip
            except RuntimeError as error:
                self.failed(name, how, error)
                continue
            self.report.rows.setdefault(name, []).append(row)
            say(f"{name} ({how}) {workload}: {row.score:.1f} {row.unit}")
            self.save()

    def failed(self, name: str, how: str, error: RuntimeError) -> None:
        """Note it in the report; the next one goes on."""
        self.report.failures.setdefault(name, []).append(f"{how}: {error}")
        say(f"{name} ({how}): {error}")
        self.save()

    def save(self) -> None:
        if self.args.out:
            encoded = msgspec.json.format(msgspec.json.encode(self.report), indent=1)
            Path(self.args.out).write_bytes(encoded + b"\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure_sgen(session: Session, path: Path, compute: Compute) -> None:
    """The workloads in this process, then start-up time and memory in others."""
    args, report = session.args, session.report
    loaded = load_model(path, compute=compute)
    report.kv_bytes = loaded.model.kv_bytes_per_token
    with Engine(loaded) as engine:
        report.computed = engine.info.compute
        say(f"sgen: {report.computed}")
        client = cpu_load.SgenClient(engine, session.load.Reply)
        session.run("sgen", client, args.only, args.repeat, "in process")
    if not args.quick:
        report.startup = machine.startup_seconds(path, compute)
        report.memory = machine.memory_of(path, compute, cache_tokens=CACHE_TOKENS)
        session.save()


def measure_peer(session: Session, peer: str, path: Path) -> None:
    """At a server that runs, or at each of the settings that it is started with; a server that
    does not start is noted, and the next one goes on."""
    args = session.args
    repeat = args.peer_repeat or args.repeat
    if peer in args.peer:
        client = cpu_peers.client(session.load, args.peer[peer], cpu_load.TIMEOUT)
        session.run(peer, client, args.only, repeat, "as it runs")
        return
    for setting in cpu_peers.SETTINGS[peer]:
        chosen = [w for w in args.only if w in setting.workloads]
        if not chosen:
            continue
        try:
            with cpu_peers.server(peer, setting, path, args.shared, args.log) as url:
                client = cpu_peers.client(session.load, url, cpu_load.TIMEOUT)
                session.run(peer, client, chosen, repeat, setting.name)
        except RuntimeError as error:
            session.failed(peer, setting.name, error)


def new_report(args: argparse.Namespace, path: Path, compute: Compute) -> Report:
    """The facts of the machine and of the model; the bandwidth is measured here."""
    cores = machine.num_cores()
    return Report(
        version=sgen.__version__,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        model=path.stem,
        processor=machine.processor(),
        cores=cores,
        compute=msgspec.json.encode(compute).decode(),
        seed=args.seed,
        bandwidth=machine.read_bandwidth(cores),
        bandwidth_one=machine.read_bandwidth(1),
        matrix_bytes=machine.matrix_bytes(path),
    )


def take_peers(report: Report, file: Path) -> None:
    """The peers' rows of an earlier run; SystemExit if it was of another model or machine."""
    kept = msgspec.json.decode(file.read_bytes(), type=Report)
    if different := cpu_report.differences(report, kept):
        sys.exit(f"{file} cannot stand beside this run: {'; '.join(different)}")
    report.peers_bandwidth = kept.peers_bandwidth or kept.bandwidth
    for peer in cpu_report.PEERS:
        report.rows[peer] = kept.rows.get(peer, [])
        report.failures[peer] = kept.failures.get(peer, [])


def show(report: Report, chart_file: Path | None) -> None:
    """Print the table and what else there is to say; draw the chart if asked."""
    print(f"{report.model} on {report.processor}, {report.cores} cores, {report.when}\n")
    print(cpu_report.table(report) + "\n")
    for fact in cpu_report.facts(report):
        print(f"- {fact}")
    if chart_file:
        chart_file.write_text(svg(cpu_report.chart(report)), encoding="utf-8")


def main() -> None:
    args = arguments()
    if args.kept:
        show(msgspec.json.decode(args.kept.read_bytes(), type=Report), args.chart)
        return
    path = resolve_model(args.model)
    compute = Compute(args.compute, args.threads, args.kv_cache_dtype, args.deterministic)
    report = new_report(args, path, compute)
    if args.peers_from:
        take_peers(report, args.peers_from)
    session = Session(args, report)
    if args.sgen:
        measure_sgen(session, path, compute)
    for peer in dict.fromkeys((*args.peer, *args.start_peers)):
        measure_peer(session, peer, path)
    session.save()
    show(session.report, args.chart)


def arguments() -> argparse.Namespace:
    """The command line; `peer` is a dict of URLs, `only` and `start_peers` lists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a GGUF file or a name (default: smollm2)")
    parser.add_argument("--only", type=words, metavar="W1,W2", help="these workloads")
    parser.add_argument("--quick", action="store_true", help="fewer items, nothing but workloads")
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    parser.add_argument("--peer-repeat", type=int, metavar="N", help="default: as --repeat")
    parser.add_argument("--seed", default="1", help="of the prompts; another for a warm server")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=URL", help="a server that runs"
    )
    parser.add_argument(
        "--start-peers", type=words, nargs="?", default=[], const=[*cpu_report.PEERS],
        metavar="NAMES", help="start llamacpp and vllm, or those named",
    )  # fmt: skip
    parser.add_argument("--peers-from", type=Path, metavar="FILE", help="an earlier run's peers")
    parser.add_argument("--no-sgen", dest="sgen", action="store_false", help="only the peers")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--from", type=Path, dest="kept", metavar="FILE", help="show such a file")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the ratios")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="the servers' output")
    parser.add_argument("--shared", type=Path, default=SHARED, help="the development data")
    compute_options(parser)
    args = parser.parse_args()
    args.only = args.only or list(cpu_load.SIZES)
    args.peer = dict(pair.split("=", 1) for pair in args.peer)
    unknown = {*args.only} - {*cpu_load.SIZES} | {*args.peer, *args.start_peers} - {
        *cpu_report.PEERS
    }
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for peer in {*args.start_peers} - {*args.peer}:
        if lacking := cpu_peers.missing(peer):
            parser.error(f"{peer} is started with {' and '.join(lacking)} in the environment")
    return args


def words(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
