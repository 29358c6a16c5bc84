"""The decoder of decoder.py on a GPU: its attention is a Triton kernel (kernels/triton_attention).

- Weights are dequantized to the compute type (see triton_linear.py); bf16 on a GPU.  The residual
  stream has that type; norms, rotations, softmax and logits are computed in fp32.
- A batch comes and logits go by the host.  `forward` waits for the logits, with Python's lock let
  go of, while the engine's other thread makes the step's masks.
- A step in which each request has one new token replays a CUDA graph (graphs.py), where asked for.
- `deterministic`: a row's bits do not depend on its company.  Attention has one tile size for all,
  products have a fixed number of rows, and no prefix is read for several requests at once.
- With Triton's interpreter (TRITON_INTERPRET=1) all of it runs on a CPU, for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sgen.kernels.triton_attention import AttentionPlan, paged_attention, plan_attention
from sgen.runtime.batch import PAGE_SIZE, Batch, KVCache
from sgen.runtime.compute import KVCacheDtype
from sgen.runtime.config import ModelConfig
from sgen.runtime.models import triton_ops as ops
from sgen.runtime.models.graphs import Capture, CudaCapture, DecodeGraphs, Inputs
from sgen.runtime.models.rope import Rope
from sgen.runtime.models.triton_linear import Dense, dense, matrix
from sgen.runtime.weights import Weights

_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}


def runs(config: ModelConfig) -> bool:
    """Whether the kernels have this model's shapes."""
    return 16 <= config.head_dim <= 256


class TritonKV:
    """Keys and values [layers, pages, PAGE_SIZE, Hkv, D] on a device.

    int8 and fp8 (e4m3) have one fp32 scale for each token and KV head.  There is a page behind
    the last: what padding requests write goes there, and nobody reads it.
    """

    def __init__(
        self, config: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_layers, num_pages + 1, PAGE_SIZE, config.num_kv_heads, config.head_dim)
        self.num_pages = num_pages
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.scales: tuple[Tensor, Tensor] | None = None  # of keys, of values
        if dtype in (torch.int8, torch.float8_e4m3fn):
            self.scales = (
                torch.zeros(shape[:-1], device=device),
                torch.zeros(shape[:-1], device=device),
            )
        self.graphs: DecodeGraphs | None = None  # they hold the addresses of these pages

    @property
    def scratch_page(self) -> int:
        return self.num_pages

    def copy_page(self, source: int, target: int) -> None:
        for x in (self.keys.view(torch.uint8), self.values.view(torch.uint8), *(self.scales or ())):
            x[:, target] = x[:, source]

    def scales_of(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """Of the layer's keys and values [pages + 1, PAGE_SIZE, Hkv]."""
        if self.scales is None:
            return None, None
        return self.scales[0][layer], self.scales[1][layer]


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer; norms are fp32."""

    input_norm: Tensor
    qkv: Dense
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Dense
    post_norm: Tensor
    gate_up: Dense
    down: Dense


class TritonDecoder:
    """A model of the family with its weights on `device`.

    `dtype` is the compute type.  `kv_cache_dtype`: None keeps keys and values in the compute type.
    `capture` makes graphs of decode steps (`graphs.CudaCapture`); None: every step is launched.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        device: str,
        dtype: torch.dtype,
        kv_cache_dtype: KVCacheDtype | None = None,
        deterministic: bool = False,
        capture: Capture | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`progress(layers done, layers)` tells of the dequantization."""
        self.config = config
        self._device, self._dtype = torch.device(device), dtype
        self._kv_dtype = dtype if kv_cache_dtype is None else _DTYPES[kv_cache_dtype]
        self._deterministic = deterministic
        self._capture = capture
        self._group = config.num_heads // config.num_kv_heads
        self._rope = Rope(config.rope, device)
        self._embedding = self._matrix(weights, "model.embed_tokens.weight")
        self._layers = []
        for i in range(config.num_layers):
            self._layers.append(self._layer(weights, f"model.layers.{i}."))
            progress(i + 1, config.num_layers)
        self._norm = self._vector(weights, "model.norm.weight")
        tied = config.tie_embeddings
        self._head = self._embedding if tied else self._matrix(weights, "lm_head.weight")

    @classmethod
    def on(
        cls,
        device: str,
        config: ModelConfig,
        weights: Weights,
        *,
        kv_cache_dtype: KVCacheDtype | None,
        deterministic: bool,
        progress: Callable[[int, int], None],
    ) -> TritonDecoder:
        """As an engine runs it: bf16 and graphs on "cuda", fp32 without graphs on "cpu"."""
        is_cuda = device == "cuda"
        return cls(
            config,
            weights,
            device=device,
            dtype=torch.bfloat16 if is_cuda else torch.float32,
            kv_cache_dtype=kv_cache_dtype,
            deterministic=deterministic,
            capture=CudaCapture() if is_cuda else None,
            progress=progress,
        )

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def description(self) -> str:
        is_cuda = self._device.type == "cuda"
        name = torch.cuda.get_device_name(self._device) if is_cuda else "the interpreter on a CPU"
        exact = ", deterministic" if self._deterministic else ""
        return f"triton {_name(self._dtype)}, {name}, KV {_name(self._kv_dtype)}{exact}"

    @property
    def kv_bytes_per_token(self) -> int:
        c = self.config
        scale = 4 if self._kv_dtype.itemsize == 1 else 0
        head = c.head_dim * self._kv_dtype.itemsize + scale
        return 2 * c.num_layers * c.num_kv_heads * head

    def allocate(self, num_pages: int) -> TritonKV:
        cache = TritonKV(self.config, num_pages, self._kv_dtype, self._device)
        if self._capture is not None:
            cache.graphs = DecodeGraphs(
                lambda inputs, plan: self._compute(inputs, plan, cache),
                self._capture,
                scratch_page=cache.scratch_page,
                group=self._group,
                window=self.config.sliding_window,
                deterministic=self._deterministic,
                device=self._device,
            )
        return cache

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Extend the batch's requests; fp32 logits [R, vocab] on the CPU."""
        assert isinstance(cache, TritonKV)
        graphs = cache.graphs
        if graphs is not None and graphs.takes(batch):
            return graphs.step(batch).cpu()
        inputs = Inputs(
            *(
                x.to(self._device)
                for x in (
                    batch.tokens,
                    batch.positions,
                    batch.slots,
                    batch.page_table,
                    batch.logit_rows,
                )
            )
        )
        plan = plan_attention(
            batch.cu_seqlens_q.diff().tolist(),
            batch.seq_lens.tolist(),
            group=self._group,
            device=self._device,
            window=self.config.sliding_window,
            deterministic=self._deterministic,
        )
        return self._compute(inputs, plan, cache).cpu()

    def _compute(self, inputs: Inputs, plan: AttentionPlan, kv: TritonKV) -> Tensor:
        """The step's launches; fp32 logits [R, vocab] on the device, perhaps not yet there."""
        eps = self.config.norm_eps
        rotation = self._rope(inputs.positions)
        x, residual = self._embedding.rows(inputs.tokens), None
        for i, layer in enumerate(self._layers):
            y, residual = ops.rms_norm(x, layer.input_norm, eps, residual)
            x = self._attention(i, layer, layer.qkv(y), rotation, inputs, plan, kv)
            y, residual = ops.rms_norm(x, layer.post_norm, eps, residual)
            x = layer.down(ops.silu_mul(layer.gate_up(y)))
        rows = inputs.logit_rows
        of_rows = None if residual is None else residual[rows]
        normed, _ = ops.rms_norm(x[rows], self._norm, eps, of_rows)
        return self._head(normed).float()

    def _attention(
        self,
        i: int,
        layer: _Layer,
        qkv: Tensor,
        rotation: tuple[Tensor, Tensor],
        inputs: Inputs,
        plan: AttentionPlan,
        kv: TritonKV,
    ) -> Tensor:
        """From the products [T, (Hq + 2 Hkv) D] of layer i to [T, hidden]; writes KV."""
        c = self.config
        keys, values, scales = kv.keys[i], kv.values[i], kv.scales_of(i)
        q = ops.rope_write_kv(
            qkv, *rotation, inputs.slots, keys, values, *scales,
            layer.q_norm, layer.k_norm, c.norm_eps,
        )  # fmt: skip
        out, _ = paged_attention(
            q,
            keys,
            values,
            inputs.page_table,
            plan,
            scale=c.head_dim**-0.5,
            window=c.sliding_window,
            k_scales=scales[0],
            v_scales=scales[1],
        )
        return layer.o(out.flatten(1))

    def _layer(self, weights: Weights, prefix: str) -> _Layer:
        c = self.config
        qkv = [f"{prefix}self_attn.{x}_proj" for x in "qkv"]
        o = f"{prefix}self_attn.o_proj"

        def head_norm(letter: str) -> Tensor | None:
            name = f"{prefix}self_attn.{letter}_norm.weight"
            return self._vector(weights, name) if c.qk_norm else None

        return _Layer(
            input_norm=self._vector(weights, f"{prefix}input_layernorm.weight"),
            qkv=self._matrix(weights, *(f"{x}.weight" for x in qkv), biased=c.qkv_bias),
            q_norm=head_norm("q"),
            k_norm=head_norm("k"),
            o=self._matrix(weights, f"{o}.weight", biased=c.o_bias),
            post_norm=self._vector(weights, f"{prefix}post_attention_layernorm.weight"),
            gate_up=self._matrix(
                weights, f"{prefix}mlp.gate_proj.weight", f"{prefix}mlp.up_proj.weight"
            ),
            down=self._matrix(weights, f"{prefix}mlp.down_proj.weight"),
        )

    def _matrix(self, weights: Weights, *names: str, biased: bool = False) -> Dense:
        biases = [weights[name.removesuffix("weight") + "bias"] for name in names if biased]
        return matrix(
            [weights[name] for name in names],
            biases,
            device=self._device,
            dtype=self._dtype,
            deterministic=self._deterministic,
        )

    def _vector(self, weights: Weights, name: str) -> Tensor:
        return dense(weights[name]).to(self._device)


def _name(dtype: torch.dtype) -> str:
    known = {torch.float8_e4m3fn: "fp8", torch.bfloat16: "bf16"}
    return known.get(dtype) or str(dtype).removeprefix("torch.").replace("float", "fp")
