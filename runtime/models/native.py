"""The decoder of decoder.py, computed by the C code of kernels/native on packed weights.

The same families and the same steps; weights stay quantized, activations are quantized to int8
for each product, keys and values are kept in bf16 unless said otherwise.  A row's bits depend on
nothing but its own tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sgen.kernels import decoder as c
from sgen.kernels import native
from sgen.kernels.packing import Matrix, PackedMatrix
from sgen.runtime.batch import PAGE_SIZE, Batch, KVCache
from sgen.runtime.compute import KVCacheDtype
from sgen.runtime.config import ModelConfig
from sgen.runtime.models.rope import RopeTable
from sgen.runtime.packed import PackedWeights


def runs(config: ModelConfig) -> bool:
    """Whether the C code has this model's shapes."""
    return config.head_dim % 16 == 0 and config.head_dim <= 256


class NativeKV:
    """Keys and values of all layers; kernels/native/decoder.h says how a page is laid out."""

    def __init__(
        self, library: native.Library, config: ModelConfig, kind: KVCacheDtype, num_pages: int
    ) -> None:
        self.num_pages = num_pages
        shape = config.num_layers, config.num_kv_heads, config.head_dim
        self.struct = c.KV(c.KV_KINDS[kind], *shape, num_pages, None)
        page_bytes = c.block_bytes(library, self.struct) * config.num_kv_heads
        self._data = c.aligned_zeros(config.num_layers * num_pages * page_bytes)
        self._pages = self._data.reshape(config.num_layers, num_pages, page_bytes)
        self.struct.data = self._data.ctypes.data
        self._logits = torch.empty(0, config.vocab_size)

    def logits(self, count: int) -> Tensor:
        """Room for that many rows of logits, which the next step of this cache overwrites."""
        if len(self._logits) < count:
            self._logits = torch.empty(count, self._logits.shape[1])
        return self._logits[:count]

    def copy_page(self, source: int, target: int) -> None:
        self._pages[:, target] = self._pages[:, source]


class NativeDecoder:
    """A model whose steps run in C, one at a time, whoever asks for them."""

    def __init__(
        self,
        library: native.Library,
        config: ModelConfig,
        weights: PackedWeights,
        *,
        isa: str,
        threads: int,
        kv_cache_dtype: KVCacheDtype = "bf16",
    ) -> None:
        self.config = config
        self._library = library
        self._kind = kv_cache_dtype
        self._rope = RopeTable(config.rope)
        self._kept: list[object] = [weights]  # what the structures point to
        self._model = self._structure(weights)
        self._runner = c.Runner(library, self._model, threads)
        self.description = f"native {isa}, {threads} threads, {kv_cache_dtype} keys and values"

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def kv_bytes_per_token(self) -> int:
        config = self.config
        struct = c.KV(c.KV_KINDS[self._kind], 1, 1, config.head_dim, 1, None)
        of_page = c.block_bytes(self._library, struct) * config.num_layers * config.num_kv_heads
        return -(-of_page // PAGE_SIZE)

    def allocate(self, num_pages: int) -> NativeKV:
        return NativeKV(self._library, self.config, self._kind, num_pages)

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Extend the batch's requests; fp32 logits [R, vocab], which the next step overwrites."""
        assert isinstance(cache, NativeKV)
        logits = cache.logits(len(batch.logit_rows))
        cosine, sine = self._rope.upto(int(batch.seq_lens.max()))
        step = c.Step(
            len(batch.tokens),
            len(batch.seq_lens),
            batch.page_table.shape[1],
            len(logits),
            *(
                x.data_ptr()
                for x in (
                    batch.tokens, batch.positions, batch.slots, batch.cu_seqlens_q,
                    batch.page_table, batch.seq_lens, batch.logit_rows,
                )
            ),
        )  # fmt: skip
        self._runner.forward(
            cache.struct, step, cosine.ctypes.data, sine.ctypes.data, logits.data_ptr()
        )
        return logits

    def _structure(self, weights: PackedWeights) -> c.Model:
        config = self.config
        layers = (c.Layer * config.num_layers)()
        for i, layer in enumerate(layers):
            self._fill_layer(layer, weights, f"model.layers.{i}.")
        self._kept.append(layers)
        embedding = self._matrix(weights, "model.embed_tokens")
        tied = config.tie_embeddings
        return c.Model(
            hidden=config.hidden_size,
            num_layers=config.num_layers,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            dim=config.head_dim,
            wide=config.intermediate_size,
            half=config.rope.rotary_dim // 2,
            window=config.sliding_window or 0,
            eps=config.norm_eps,
            scale=config.head_dim**-0.5,
            norm=self._vector(weights, "model.norm.weight"),
            layers=layers,
            embedding=embedding,
            head=embedding if tied else self._matrix(weights, "lm_head"),
        )

    def _fill_layer(self, layer: c.Layer, weights: PackedWeights, prefix: str) -> None:
        layer.input_norm = self._vector(weights, f"{prefix}input_layernorm.weight")
        layer.post_norm = self._vector(weights, f"{prefix}post_attention_layernorm.weight")
        layer.q_norm = self._vector(weights, f"{prefix}self_attn.q_norm.weight")
        layer.k_norm = self._vector(weights, f"{prefix}self_attn.k_norm.weight")
        for name in "qkvo":
            setattr(layer, name, self._matrix(weights, f"{prefix}self_attn.{name}_proj"))
        for name in ("gate", "up", "down"):
            setattr(layer, name, self._matrix(weights, f"{prefix}mlp.{name}_proj"))

    def _vector(self, weights: PackedWeights, name: str) -> int | None:
        """The address of a vector, or None if the model has none of that name."""
        vector = weights.get(name)
        if vector is None:
            return None
        assert isinstance(vector, Tensor)
        vector = vector.contiguous()
        self._kept.append(vector)
        return vector.data_ptr()

    def _matrix(self, weights: PackedWeights, name: str) -> Matrix:
        matrix = weights[f"{name}.weight"]
        assert isinstance(matrix, PackedMatrix)
        return matrix.struct(self._vector(weights, f"{name}.bias"))
