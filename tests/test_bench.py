"""`sgen bench` (arithmetic, charts, and one run of it), and the arithmetic of perplexity."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
import torch
from builders import tiny_hf_config, tiny_hf_tensors, write_hf_folder

import sgen.cli
from benchmarks import perplexity
from sgen import bench, bench_machine, bench_runs
from sgen.bench_chart import Bar, Chart, Group, svg, text_chart
from sgen.bench_files import check_writable, write
from sgen.errors import InvalidRequestError, SgenError
from sgen.protocol import Chunk, GenerateRequest, Usage
from sgen.runtime.batch import PAGE_SIZE, Batch
from sgen.runtime.folder import HFFolder
from sgen.runtime.gguf import GGUFFile

CHART = Chart(
    title="Speed & <size>",
    subtitle="here",
    series=("ours", "theirs"),
    groups=(
        Group("one", (Bar(10.0, "10 tok/s"), Bar(2.5, "2.5 tok/s", 1, goal=20.0))),
        Group("two", (Bar(0.0, "nothing"),)),
    ),
    notes=("a note",),
    goal="goal",
)


# --- what is measured of the machine ---------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bandwidth_reads_all_of_the_buffer(threads: int) -> None:
    # The function asserts that the sum of all parts is the buffer's.
    assert bench_machine.read_bandwidth(threads, buffer_bytes=8 * 1001, passes=2) > 0


def test_without_a_compiler_numpy_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_machine.native, "load", lambda name: None)
    assert bench_machine.read_bandwidth(2, buffer_bytes=8 * 1001, passes=1) > 0


def test_a_token_reads_the_matrices_once(smollm2_path: Path) -> None:
    with GGUFFile.open(smollm2_path) as file:
        matrices = sum(t.nbytes for t in file.tensors.values() if len(t.shape) == 2)
    assert bench_machine.matrix_bytes(smollm2_path) == matrices, "embedding and head are one"


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_folder_is_measured_by_its_headers(
    is_tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_hf_config(tie_word_embeddings=is_tied)
    tensors = {k: t.half() if t.dim() == 2 else t for k, t in tiny_hf_tensors(config).items()}
    folder = write_hf_folder(tmp_path / "m", config, tensors)
    matrices = {k: t.nbytes for k, t in tensors.items() if t.dim() == 2}
    if not is_tied:
        del matrices["model.embed_tokens.weight"]  # a token reads one row of it
    monkeypatch.setattr(HFFolder, "tensor", None)  # weights themselves are not asked for
    assert bench_machine.matrix_bytes(folder) == sum(matrices.values())


def test_memory_is_that_of_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told = bench_machine.Memory(100, 350, 16)
    line = msgspec.json.encode(told).decode()
    done = SimpleNamespace(returncode=0, stdout=f"noise\n{line}\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    found = bench_machine.memory_of(Path("m"), bench.Compute(), cache_tokens=16)
    assert found == told
    assert found.beyond_torch == 250


# --- what is read off replies ----------------------------------------------------------------


class Slow:
    """A backend whose chunks come 10 ms apart; the first and the last have no text."""

    def __init__(self) -> None:
        self.seen: list[GenerateRequest] = []

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        self.seen.append(request)
        for text in ("", "a", "b", "c"):
            await asyncio.sleep(0.01)
            yield Chunk(text=text)
        yield Chunk(finish_reason="length", usage=Usage(100, 60, 4))


def test_a_reply_is_stamped_where_text_comes() -> None:
    request = bench_runs.request("hello", 4)
    reply = asyncio.run(bench_runs.timed(Slow(), request))  # type: ignore[arg-type]  # a fake backend
    assert (reply.text, reply.finish, len(reply.stamps)) == ("abc", "length", 3)
    assert reply.stamps == sorted(reply.stamps)
    assert reply.ttft == reply.stamps[0] >= 0.02, "the chunk without text is no first token"
    assert reply.seconds >= reply.stamps[-1]
    assert reply.chunks == 5


def test_rates_of_a_reply() -> None:
    usage = Usage(prompt_tokens=110, cached_tokens=10, completion_tokens=5)
    reply = bench_runs.Reply(stamps=[0.5, 0.6, 0.9], seconds=1.0, usage=usage)
    assert reply.decode_rate == pytest.approx(4 / 0.4)
    assert reply.prefill_rate == pytest.approx(100 / 0.5)
    silent = bench_runs.Reply(seconds=2.0, usage=usage)
    assert (silent.ttft, silent.decode_rate) == (2.0, 0.0)
    assert bench_runs.mean_context([usage, Usage(0, 0, 1)]) == pytest.approx((112.5 + 0.5) / 2)


def test_prompts_of_two_runs_share_no_beginning() -> None:
    backend, rng = Slow(), random.Random("x")
    for _ in range(2):
        asyncio.run(bench_runs._awaited(bench_runs.WORKLOADS["prefill"].run(backend, rng)))  # type: ignore[arg-type]  # a fake backend
    begins = {request.prompt[0].text.split()[0] for request in backend.seen}  # type: ignore[union-attr]  # its prompts are texts
    assert len(begins) == len(backend.seen) == 6


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('{"name":"Ada","age":36,"tags":[]}', True),
        ('{"name":"Ada","age":36}', False),
        ('{"name":"Ada","age":"36","tags":[]}', False),
        ('{"name":"Ada"', False),
        ("[]", False),
    ],
)
def test_what_counts_as_valid(text: str, valid: bool) -> None:
    assert bench_runs.valid_share([bench_runs.Reply(text=text)]) == valid


# --- charts ----------------------------------------------------------------------------------


def test_bars_are_to_scale() -> None:
    root = ElementTree.fromstring(svg(CHART))
    space = "{http://www.w3.org/2000/svg}"
    bars = [r for r in root.iter(f"{space}rect") if r.get("height") == "18"]
    first, second, empty = (float(bar.get("width", 0)) for bar in bars)
    assert first == pytest.approx(4 * second, abs=0.2)
    assert empty == 1.0, "a bar of nothing can still be seen"
    goal = next(x for x in root.iter(f"{space}line") if x.get("stroke") == "#b00020"
                and float(x.get("y1", 0)) > 90)  # fmt: skip
    left = float(bars[0].get("x", 0))
    assert float(goal.get("x1", 0)) - left == pytest.approx(2 * first, abs=0.2)
    texts = [t.text for t in root.iter(f"{space}text")]
    assert {"Speed & <size>", "10 tok/s", "one", "ours", "goal", "a note"} <= set(texts)
    height = float(root.get("height", 0))
    assert all(float(t.get("y", 0)) < height for t in root.iter(f"{space}text"))


def test_a_chart_for_the_terminal() -> None:
    lines = text_chart(CHART).splitlines()
    assert [line.count("█") for line in lines] == [20, 5, 0]
    assert lines[0] == f"one  ours    {'█' * 20} 10 tok/s"
    assert lines[1].startswith("     theirs  ")
    assert lines[2] == "two  ours    ▏ nothing"


# --- the command -----------------------------------------------------------------------------


def report(**changes: Any) -> bench.Report:
    single = bench_runs.Result(
        name="single", what="one stream", unit="tok/s", score=100.0, low=90.0, high=110.0, runs=3,
        load_before=0.1,
    )  # fmt: skip
    first = msgspec.structs.replace(single, name="ttft", what="first token", unit="ms", score=30.0)
    made = bench.Report(
        version="1", model="tiny", processor="chip", cores=2, load_before=0.1, bandwidth=20e9,
        bandwidth_one=12e9, token_bytes=1e8, results=(single, first), startup=2.0,
        compute="native chip, 2 threads",
        memory=bench_machine.Memory(200_000_000, 700_000_000, 16384),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_the_summary_says_how_near_the_limit_is() -> None:
    shown = bench.summary(report())
    assert "one stream 50% of it" in shown
    assert "500 MB beyond torch" in shown
    assert "first token: 30 ms" in shown
    assert [g.label for g in bench.chart_of(report()).groups] == ["single"], "ms are no rate"
    assert "computed by native chip, 2 threads\n" in shown
    assert report(results=()).bandwidth_share is None


def test_a_file_that_does_not_say_what_computed_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = msgspec.to_builtins(report())
    del old["compute"]
    kept = tmp_path / "old.json"
    kept.write_bytes(msgspec.json.encode(old))
    assert sgen.cli.main(["bench", "--from", str(kept)]) == 0
    assert "computed by" not in capsys.readouterr().out


def test_figures_are_kept_and_shown_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, chart = tmp_path / "a.json", tmp_path / "a.svg"
    kept.write_bytes(msgspec.json.encode(report()))
    assert sgen.cli.main(["bench", "--from", str(kept), "--chart", str(chart)]) == 0
    assert bench.summary(report()) in capsys.readouterr().out
    assert chart.read_text() == svg(bench.chart_of(report()))
    assert sgen.cli.main(["bench", "--from", str(kept), "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=bench.Report) == report()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--only", "single,nothing"], "no workload 'nothing'"),
        (["--repeat", "0"], "repeat"),
        (["--from", "nowhere.json"], "no figures"),
        (["--from", __file__], "no figures"),
    ],
)
def test_wrong_use_is_explained(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sgen.cli.main(["bench", *args]) == 1
    assert says in capsys.readouterr().err


def test_a_run_of_it(
    smollm2_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_machine, "read_bandwidth", lambda threads: 1e10)
    out = tmp_path / "b.json"
    asked = ["bench", str(smollm2_path), "--only", "json", "--repeat", "1", "--quick"]
    assert sgen.cli.main([*asked, "--out", str(out)]) == 0
    found = msgspec.json.decode(out.read_bytes(), type=bench.Report)
    (result,) = found.results
    assert (result.name, result.valid, result.runs) == ("json", 1.0, 1)
    assert result.low == result.score == result.high > 0
    assert found.token_bytes == bench_machine.matrix_bytes(smollm2_path)
    assert found.compute.startswith(("native ", "torch "))
    shown = capsys.readouterr().out
    assert "100% valid" in shown
    assert f"computed by {found.compute}\n" in shown


# --- the files it writes -----------------------------------------------------------------------


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_reports", None)  # measuring would be an error
    for option, file in (("--out", tmp_path / "none" / "a.json"), ("--chart", tmp_path)):
        assert sgen.cli.main(["bench", option, str(file)]) == 1
        assert f"{option} cannot be written to {file}" in capsys.readouterr().err
    kept = tmp_path / "kept.json"
    kept.write_bytes(msgspec.json.encode(report()))
    assert sgen.cli.main(["bench", "--from", str(kept), "--out", str(kept / "below")]) == 1
    assert "--out" in capsys.readouterr().err


def test_trying_a_file_leaves_it_and_its_folder_alone(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("figures")
    for name in ("old.json", "new.json"):
        check_writable(str(tmp_path / name), "--out")
    assert old.read_text() == "figures"
    assert list(tmp_path.iterdir()) == [old]


def test_a_file_is_replaced_and_a_link_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("figures")
    link.symlink_to(real)
    before = real.stat().st_ino
    write(str(link), "--out", "newer")
    assert link.is_symlink()
    assert real.read_text() == "newer"
    assert real.stat().st_ino != before, "never half written"
    check_writable("/dev/stdout", "--out")  # no file: written to, not replaced
    with pytest.raises(InvalidRequestError, match="--out"):
        write(str(tmp_path / "none" / "a"), "--out", "")
    assert sorted(tmp_path.iterdir()) == [link, real]


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [(KeyboardInterrupt(), 130, "interrupted"), (SgenError("it broke"), 1, "it broke")],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_measured_before_the_end_is_kept(
    error: BaseException,
    status: int,
    says: str,
    as_json: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reports(options: bench.Options, *, quiet: bool) -> Iterator[bench.Report]:
        yield report(results=report().results[:1])
        raise error

    monkeypatch.setattr(bench, "_reports", reports)
    out, chart = tmp_path / "a.json", tmp_path / "a.svg"
    asked = ["bench", "--out", str(out), "--chart", str(chart), *(["--json"] * as_json)]
    assert sgen.cli.main(asked) == status
    found = msgspec.json.decode(out.read_bytes(), type=bench.Report)
    assert [r.name for r in found.results] == ["single"]
    assert found.stopped == says
    assert f"not all that was asked for: {says}" in chart.read_text()
    shown = capsys.readouterr().out
    assert ("100.0" in shown) is not as_json, "with --json the error is the one object"


def test_nothing_measured_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reports(options: bench.Options, *, quiet: bool) -> Iterator[bench.Report]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(bench, "_reports", reports)
    out = tmp_path / "a.json"
    out.write_text("figures of last week")
    assert sgen.cli.main(["bench", "--out", str(out)]) == 130
    assert out.read_text() == "figures of last week"


def test_each_workload_is_known_as_it_ends(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = report().results[0]
    first = msgspec.structs.replace(single, context=10.0)

    def measure(engine: Any, name: str, repeat: int) -> bench_runs.Result:
        if name == "prefill":
            raise KeyboardInterrupt
        return first

    monkeypatch.setattr(bench_machine, "read_bandwidth", lambda threads: 1e10)
    monkeypatch.setattr(bench, "measure", measure)
    options = bench.Options(str(smollm2_path), only=("single", "prefill"), quick=True)
    reports = bench._reports(options, quiet=True)
    known = next(reports)
    assert known.results == (first,)
    assert known.token_bytes > bench_machine.matrix_bytes(smollm2_path), "keys and values too"
    with pytest.raises(KeyboardInterrupt):
        next(reports)


# --- perplexity ------------------------------------------------------------------------------


class Bigram:
    """After token t it gives t + 1 the logit ln 3 and the three others 0: p = 1/2."""

    vocab_size, context_length = 4, 2048

    def __init__(self) -> None:
        self.extended: list[tuple[int, int]] = []

    def forward(self, batch: Batch, cache: Any) -> torch.Tensor:
        assert torch.equal(batch.positions, batch.slots)
        assert batch.page_table.shape[1] == -(-int(batch.seq_lens[0]) // PAGE_SIZE)
        self.extended.append((int(batch.positions[0]), int(batch.seq_lens[0])))
        logits = torch.zeros(len(batch.logit_rows), 4)
        rows = torch.arange(len(logits))
        logits[rows, (batch.tokens[batch.logit_rows] + 1) % 4] = torch.tensor(3.0).log()
        return logits


def test_losses_are_of_the_next_tokens() -> None:
    model: Any = Bigram()
    tokens = torch.arange(600) % 4
    losses = perplexity.window_losses(model, None, tokens)  # type: ignore[arg-type]  # a fake model
    assert model.extended == [(0, 256), (256, 512), (512, 599)]
    # fp32 softmax of four numbers
    torch.testing.assert_close(losses, torch.full((599,), 2.0).double().log(), rtol=1e-6, atol=0)


def test_the_difference_is_of_the_same_tokens() -> None:
    reference = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double() * 9
    found = perplexity.difference(reference + 0.01, reference)
    assert found["difference"] == pytest.approx(0.01005, rel=1e-3)
    assert found["error"] == pytest.approx(0, abs=1e-9)
