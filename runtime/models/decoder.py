"""The decoder-only transformer that Llama, SmolLM2, Mistral, Qwen2 and Qwen3 share.

One forward for any ragged batch: `Batch` in, KV written to its slots, logits of its rows out.
What differs between the families is data: biases, QK-norm, tied embeddings, rope, window.
Weights are dequantized to fp32 at load; every operation is `sgen.kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sgen.kernels import reference as ops
from sgen.runtime.batch import PAGE_SIZE, Batch, KVCache
from sgen.runtime.config import ModelConfig
from sgen.runtime.models.rope import Rope
from sgen.runtime.quant import QuantTensor
from sgen.runtime.weights import Weights


class PagedKV:
    """Keys and values [layers, pages, PAGE_SIZE, Hkv, D] fp32, one page table for all layers."""

    def __init__(self, config: ModelConfig, num_pages: int) -> None:
        shape = (config.num_layers, num_pages, PAGE_SIZE, config.num_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.num_pages = num_pages

    def copy_page(self, source: int, target: int) -> None:
        self.keys[:, target] = self.keys[:, source]
        self.values[:, target] = self.values[:, source]


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer, fp32; products of the same input are one matrix."""

    input_norm: Tensor  # [hidden]
    qkv: Tensor  # [(Hq + 2 Hkv) D, hidden]
    qkv_bias: Tensor | None
    q_norm: Tensor | None  # [D]
    k_norm: Tensor | None
    o: Tensor  # [hidden, Hq D]
    o_bias: Tensor | None
    post_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 intermediate, hidden]
    down: Tensor  # [hidden, intermediate]


class Decoder:
    """A model of the family with its weights in memory."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`progress(layers done, layers)` tells of the dequantization."""
        self.config = config
        self._rope = Rope(config.rope)
        self._embedding = _dense(weights["model.embed_tokens.weight"])
        self._layers = []
        for i in range(config.num_layers):
            self._layers.append(_layer(weights, config, f"model.layers.{i}."))
            progress(i + 1, config.num_layers)
        self._norm = _dense(weights["model.norm.weight"])
        tied = config.tie_embeddings
        self._head = self._embedding if tied else _dense(weights["lm_head.weight"])

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def description(self) -> str:
        return f"torch fp32, {torch.get_num_threads()} threads"

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * 4 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim

    def allocate(self, num_pages: int) -> PagedKV:
        return PagedKV(self.config, num_pages)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Extend the batch's requests; fp32 logits [R, vocab] of `batch.logit_rows`."""
        assert isinstance(cache, PagedKV)
        cos, sin = self._rope(batch.positions)
        x = self._embedding[batch.tokens]
        for i, layer in enumerate(self._layers):
            attended = self._attention(
                i, layer, ops.rms_norm(x, layer.input_norm, self.config.norm_eps),
                cos, sin, batch, cache,
            )  # fmt: skip
            x = x + attended
            y = ops.rms_norm(x, layer.post_norm, self.config.norm_eps)
            x = x + ops.linear(ops.silu_mul(ops.linear(y, layer.gate_up)), layer.down)
        rows = ops.rms_norm(x[batch.logit_rows], self._norm, self.config.norm_eps)
        return ops.linear(rows, self._head)

    def _attention(
        self, i: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, batch: Batch, kv: PagedKV
    ) -> Tensor:
        """The attention block of layer i: normed x [T, hidden] -> [T, hidden]; writes KV."""
        c = self.config
        qkv = ops.linear(x, layer.qkv, layer.qkv_bias).view(len(x), -1, c.head_dim)
        q, kv_heads = qkv[:, : c.num_heads], qkv[:, c.num_heads :]
        k, v = kv_heads[:, : c.num_kv_heads], kv_heads[:, c.num_kv_heads :]
        if layer.q_norm is not None and layer.k_norm is not None:
            q = ops.rms_norm(q, layer.q_norm, c.norm_eps)
            k = ops.rms_norm(k, layer.k_norm, c.norm_eps)
        ops.write_kv(kv.keys[i], kv.values[i], batch.slots, ops.rope(k, cos, sin), v)
        out, _ = ops.paged_attention(
            ops.rope(q, cos, sin),
            kv.keys[i],
            kv.values[i],
            batch.page_table,
            batch.cu_seqlens_q,
            batch.seq_lens,
            scale=c.head_dim**-0.5,
            window=c.sliding_window,
        )
        return ops.linear(out.flatten(1), layer.o, layer.o_bias)


def _dense(weight: QuantTensor | Tensor) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.dequantize()


def _layer(weights: Weights, config: ModelConfig, prefix: str) -> Layer:
    def get(*names: str) -> Tensor:
        parts = [_dense(weights[prefix + n]) for n in names]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    qkv = [f"self_attn.{x}_proj" for x in "qkv"]
    return Layer(
        input_norm=get("input_layernorm.weight"),
        qkv=get(*(f"{x}.weight" for x in qkv)),
        qkv_bias=get(*(f"{x}.bias" for x in qkv)) if config.qkv_bias else None,
        q_norm=get("self_attn.q_norm.weight") if config.qk_norm else None,
        k_norm=get("self_attn.k_norm.weight") if config.qk_norm else None,
        o=get("self_attn.o_proj.weight"),
        o_bias=get("self_attn.o_proj.bias") if config.o_bias else None,
        post_norm=get("post_attention_layernorm.weight"),
        gate_up=get("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        down=get("mlp.down_proj.weight"),
    )
