"""Does computing in int8 cost quality?  `python -m benchmarks.perplexity [MODEL]`.

Perplexity on a text, for each way to compute a model: the native code with each type of keys and
values, and the reference, which is torch in fp32 on the dequantized weights.  The text is cut into
windows of 2,048 tokens; each is one sequence, and all its tokens but the first are predicted.
The differences are of the same tokens, so they are far smaller than the text's own spread.  The
goal is a relative difference below 0.5 %.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sgen.protocol import Text
from sgen.runtime.batch import PAGE_SIZE, Batch, KVCache, Model
from sgen.runtime.chat import PromptEncoder
from sgen.runtime.compute import Compute
from sgen.runtime.hub import resolve_model
from sgen.runtime.loader import load_model, load_tokenizer

TEXT = Path(__file__).parent.parent.parent / "shared" / "data" / "tinyshakespeare_dev.txt"
WINDOW = 2048
PIECE = 256  # rows of a step: as many rows of logits are in memory at once
GOAL = 0.005

PATHS = {
    "torch fp32": Compute("torch"),
    "torch, KV int8": Compute("torch", kv_cache_dtype="int8"),
    "torch, KV fp8": Compute("torch", kv_cache_dtype="fp8"),
    "native, KV fp32": Compute("native", kv_cache_dtype="fp32"),
    "native, KV bf16": Compute("native", kv_cache_dtype="bf16"),
    "native, KV int8": Compute("native", kv_cache_dtype="int8"),
}
REFERENCE = "torch fp32"


def extension(tokens: Tensor, start: int, end: int) -> Batch:
    """One sequence extended by its tokens [start, end), with logits of every row."""
    positions = torch.arange(start, end)
    pages = torch.arange(-(-end // PAGE_SIZE), dtype=torch.int32)
    return Batch(
        tokens=tokens[start:end],
        positions=positions,
        slots=positions,  # page i is the sequence's page i
        cu_seqlens_q=torch.tensor([0, end - start], dtype=torch.int32),
        page_table=pages.unsqueeze(0),
        seq_lens=torch.tensor([end], dtype=torch.int32),
        logit_rows=torch.arange(end - start),
    )


def window_losses(model: Model, cache: KVCache, tokens: Tensor) -> Tensor:
    """-log p (natural) of tokens 1 to the last, fp64 [len(tokens) - 1]; tokens int64 [n]."""
    losses = []
    for start in range(0, len(tokens) - 1, PIECE):
        end = min(start + PIECE, len(tokens) - 1)  # nothing is predicted after the last
        logits = model.forward(extension(tokens, start, end), cache)
        targets = tokens[start + 1 : end + 1]
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").double())
    return torch.cat(losses)


def losses_of(path: Path, compute: Compute, windows: Sequence[Tensor]) -> Tensor:
    """Of all windows, one after the other."""
    model = load_model(path, compute=compute).model
    cache = model.allocate(WINDOW // PAGE_SIZE)
    with torch.inference_mode():
        return torch.cat([window_losses(model, cache, tokens) for tokens in windows])


def windows_of(path: Path, text: str, limit: int | None) -> list[Tensor]:
    """The text's whole windows, the first `limit` of them; int64 [WINDOW] each."""
    ids = PromptEncoder(load_tokenizer(path)).encode([Text(text)])
    count = len(ids) // WINDOW
    return list(torch.tensor(ids[: count * WINDOW]).reshape(count, WINDOW)[:limit])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="a GGUF file, a folder, or a name")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--windows", type=int, metavar="N", help="only the first N")
    parser.add_argument("--paths", help=f"of {', '.join(PATHS)}; with semicolons between")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    path = resolve_model(args.model)
    windows = windows_of(path, args.text.read_text(encoding="utf-8"), args.windows)
    tokens = sum(len(w) - 1 for w in windows)
    print(f"{path.stem}, {len(windows)} windows of {WINDOW} tokens of {args.text.name}")
    print(f"load average {os.getloadavg()[0]:.1f}\n")
    print("| path | perplexity | against fp32 | standard error | below 0.5 % | tok/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    found: dict[str, dict[str, float]] = {}
    reference: Tensor | None = None
    for name in args.paths.split(";") if args.paths else PATHS:
        start = time.perf_counter()
        losses = losses_of(path, PATHS[name], windows)
        rate = tokens / (time.perf_counter() - start)
        gc.collect()  # the model, before the next one is loaded
        row = {"perplexity": math.exp(losses.mean()), "tok_s": rate}
        if name == REFERENCE:
            reference = losses
        elif reference is not None:
            row |= difference(losses, reference)
        found[name] = row
        print(table_row(name, row), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"model": path.stem, "windows": len(windows),
                                        "paths": found}, indent=1) + "\n")  # fmt: skip


def difference(losses: Tensor, reference: Tensor) -> dict[str, float]:
    """How much larger the perplexity is, relatively, and the standard error of that."""
    delta = losses - reference
    error = float(delta.std()) / math.sqrt(len(delta))
    return {"difference": math.expm1(float(delta.mean())), "error": error}


def table_row(name: str, row: dict[str, float]) -> str:
    cells = [name, f"{row['perplexity']:.4f}"]
    if "difference" in row:
        met = "yes" if abs(row["difference"]) < GOAL else "no"
        cells += [f"{row['difference']:+.3%}", f"{row['error']:.3%}", met]
    else:
        cells += ["—", "—", "—"]
    return f"| {' | '.join([*cells, format(row['tok_s'], '.0f')])} |"


if __name__ == "__main__":
    main()
