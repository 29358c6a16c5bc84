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
from sgen.runtime.compute import KVCacheDtype
from sgen.runtime.config import ModelConfig
from sgen.runtime.models.rope import Rope
from sgen.runtime.quant import QuantTensor
from sgen.runtime.weights import Weights

_DTYPES: dict[KVCacheDtype, torch.dtype] = {
    "fp32": torch.float32,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}


class PagedKV:
    """Keys and values [layers, pages, PAGE_SIZE, Hkv, D], one page table for all layers.

    fp32, or int8 or fp8 (e4m3) with one fp32 scale for each token and KV head.
    """

    def __init__(self, config: ModelConfig, num_pages: int, dtype: KVCacheDtype = "fp32") -> None:
        shape = (config.num_layers, num_pages, PAGE_SIZE, config.num_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, dtype=_DTYPES[dtype])
        self.values = torch.zeros(shape, dtype=_DTYPES[dtype])
        self.num_pages = num_pages
        self.scales: tuple[Tensor, Tensor] | None = None  # of keys, of values
        if dtype != "fp32":
            self.scales = torch.zeros(shape[:-1]), torch.zeros(shape[:-1])

    def copy_page(self, source: int, target: int) -> None:
        for x in (self.keys.view(torch.uint8), self.values.view(torch.uint8), *(self.scales or ())):
            x[:, target] = x[:, source]

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """k and v fp32 [T, Hkv, D] at `slots` int64 [T]."""
        if self.scales is None:
            ops.write_kv(self.keys[layer], self.values[layer], slots, k, v)
            return
        for pages, scales, x in zip((self.keys, self.values), self.scales, (k, v), strict=True):
            ops.write_quantized_kv(pages[layer], scales[layer], slots, x)

    def scales_of(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """Of the layer's keys and values [pages, PAGE_SIZE, Hkv]."""
        if self.scales is None:
            return None, None
        return self.scales[0][layer], self.scales[1][layer]


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
        kv_cache_dtype: KVCacheDtype = "fp32",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`progress(layers done, layers)` tells of the dequantization."""
        self.config = config
        self._kv_dtype = kv_cache_dtype
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
        kv = "" if self._kv_dtype == "fp32" else f", KV {self._kv_dtype}"
        return f"torch fp32, {torch.get_num_threads()} threads{kv}"

    @property
    def kv_bytes_per_token(self) -> int:
        c = self.config
        head = 4 * c.head_dim if self._kv_dtype == "fp32" else c.head_dim + 4  # with its scale
        return 2 * c.num_layers * c.num_kv_heads * head

    def allocate(self, num_pages: int) -> PagedKV:
        return PagedKV(self.config, num_pages, self._kv_dtype)

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
        kv.write(i, batch.slots, ops.rope(k, cos, sin), v)
        k_scales, v_scales = kv.scales_of(i)
        out, _ = ops.paged_attention(
            ops.rope(q, cos, sin),
            kv.keys[i],
            kv.values[i],
            batch.page_table,
            batch.cu_seqlens_q,
            batch.seq_lens,
            scale=c.head_dim**-0.5,
            window=c.sliding_window,
            k_scales=k_scales,
            v_scales=v_scales,
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
