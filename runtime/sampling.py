"""How one token is chosen from one row of logits.

Order of operations, each on the result of the one before:

1. grammar mask, and `logit_bias` added
2. repetition penalty (prompt and output; positive logits divided, negative multiplied: Keskar et
   al. 2019, arXiv:1909.05858), then frequency and presence penalty (output only, subtracted)
3. temperature 0: the largest, the lowest id among equals; else logits / temperature
4. top-k: everything at least as large as the k-th largest, so equals stay together
5. top-p: in falling order (lower ids first among equals), up to and with the first token at which
   the probabilities, renormalised after top-k, add up to top_p (Holtzman et al., arXiv:1904.09751).
   They are in proportion to `weights_of`, whose sums are exact
6. min-p: what is at least min_p times as likely as the likeliest (Nguyen et al., arXiv:2407.01082)
7. the Gumbel-max draw: argmax of logit + noise, noise a function of (seed, position, token)

Every row is computed by itself, so a result never depends on the batch.  A whole step is done by
one call of the C in kernels/native/sampling*.c, where there is a compiler.  `Sampler.sample` is the
definition of what that does, and does it where there is none.  Both take the same tokens: what
decides is made of the same IEEE operations in both, down to the exponential and the logarithm.

The noise, in integers that a kernel can repeat bit for bit (all arithmetic modulo 2^64 or 2^32):

    mix64(x):  x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB
               x ^= x >> 31                                              (SplitMix64's finaliser)
    fmix32(x): x ^= x >> 16; x *= 0x85EBCA6B; x ^= x >> 13; x *= 0xC2B2AE35; x ^= x >> 16
                                                                        (MurmurHash3's finaliser)
    key        = mix64(mix64(seed + G) + (position + 1) * G),  G = 0x9E3779B97F4A7C15
    low, high  = key mod 2^32, key >> 32
    h(token)   = fmix32(fmix32(token ^ low) + high)

and in floating point: u = (h + 1/2) / 2^32, noise = -log(-log(u)), between -3.14 and 22.88, with
the logarithm of `natural_log`.
For one key h is a permutation of the 32-bit integers, so no two tokens have the same noise.
"""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sgen.errors import SgenError
from sgen.kernels import sampling as kernel
from sgen.protocol import SamplingParams

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = 2**64 - 1
_MAX_NOISE = 22.9  # above the greatest value, 33 log 2 to within 1e-9
_FEW = 256  # so few candidates get their noise at once
_LIKELY = -4.0  # logits (over temperature) at least this near to the largest
_TINY = 1e-30  # the least divisor, so that it is one in fp32


class Sampled(NamedTuple):
    """A token; with `logprobs` asked for, its natural log-probability and the likeliest tokens."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Pick(NamedTuple):
    """Choose by `sampler` from row `row` of the logits the token for `position`.

    `allowed`: uint32 [ceil(V / 32)], bit t % 32 of word t // 32, or None for all tokens.
    """

    row: int
    sampler: Sampler
    position: int
    allowed: NDArray[np.uint32] | None = None


def sample(logits: torch.Tensor, picks: Sequence[Pick]) -> list[Sampled | Exception]:
    """A token for each pick, or the error of that pick alone.  logits fp32 [R, V]."""
    logits = logits.detach().to("cpu", torch.float32).contiguous()
    native = kernel.library()
    if native is not None and logits.shape[1] < kernel.MAX_VOCABULARY:
        return _sample_native(native, logits, picks)
    rows: Floats = logits.numpy()
    results: list[Sampled | Exception] = []
    for row, sampler, position, allowed in picks:
        try:
            results.append(sampler.sample(rows[row], position, allowed))
        except Exception as error:  # whatever it is, the other rows have nothing to do with it
            results.append(error)
    return results


def _sample_native(
    native: kernel.NativeSampler, logits: torch.Tensor, picks: Sequence[Pick]
) -> list[Sampled | Exception]:
    flat = array("q")
    for row, sampler, position, _ in picks:
        flat.extend((row, position, sampler.address, 0))
    masks = {i: pick.allowed for i, pick in enumerate(picks) if pick.allowed is not None}
    tokens = native.choose(logits.data_ptr(), logits.shape[1], flat, masks)
    results: list[Sampled | Exception] = []
    for token, (row, sampler, position, _) in zip(tokens, picks, strict=True):
        if token < 0:
            results.append(_failure(token, position))
        elif sampler.num_logprobs is None:
            results.append(Sampled(token))
        else:
            results.append(_with_logprobs(logits[row].numpy(), token, sampler.num_logprobs))
    return results


class Sampler:
    """One request's way of choosing: its parameters, its seed, and the tokens so far."""

    def __init__(self, params: SamplingParams, seed: int, prompt: Iterable[int]) -> None:
        self._params = params
        self._seed = seed
        self._bias_ids: Ids = np.array(list(params.logit_bias), dtype=np.int64)
        self._bias: Floats = np.array(list(params.logit_bias.values()), dtype=np.float32)
        self._repeats = params.repetition_penalty != 1.0
        self._temperature = np.float32(max(params.temperature, _TINY))
        self._repetition = np.float32(max(params.repetition_penalty, _TINY))
        self._counts_output = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._adjusts = bool(params.logit_bias) or self._repeats or self._counts_output
        self._seen = set(prompt) if self._repeats else set()
        self._seen_ids = array("q", sorted(self._seen))
        self._output: dict[int, int] = {}  # token to its place in the two arrays
        self._output_ids = array("q")
        self._output_counts = array("f")
        self.num_logprobs = params.logprobs
        self._settings = self._make_settings()
        self.address = ctypes.addressof(self._settings)  # for C

    def _make_settings(self) -> kernel.Settings:
        params = self._params
        settings = kernel.Settings(
            seed=self._seed & _MASK64,
            top_p=params.top_p,
            top_k=min(params.top_k, kernel.MAX_VOCABULARY),
            num_bias=len(self._bias_ids),
            bias_ids=self._bias_ids.ctypes.data,
            bias=self._bias.ctypes.data,
            temperature=params.temperature and self._temperature,
            min_z=_min_z(params.min_p),
            repetition=self._repetition,
            frequency=params.frequency_penalty,
            presence=params.presence_penalty,
        )
        settings.seen, settings.num_seen = self._seen_ids.buffer_info()
        return settings

    def accept(self, token: int) -> None:
        """The token was added to the output."""
        if self._repeats and token not in self._seen:
            self._seen.add(token)
            self._seen_ids.append(token)
            self._settings.seen, self._settings.num_seen = self._seen_ids.buffer_info()
        if self._counts_output:
            place = self._output.setdefault(token, len(self._output))
            if place == len(self._output_ids):
                self._output_ids.append(token)
                self._output_counts.append(0.0)
            self._output_counts[place] += 1.0
            self._settings.output, self._settings.num_output = self._output_ids.buffer_info()
            self._settings.counts = self._output_counts.buffer_info()[0]

    def sample(
        self, logits: Floats, position: int, allowed: NDArray[np.uint32] | None = None
    ) -> Sampled:
        """The token at `position` of the sequence (absolute, from 0).  logits fp32 [V].

        SgenError if the logits are not numbers, or nothing that is allowed can be chosen.
        """
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            nothing = logits[best] == -np.inf
            raise _failure(kernel.NONE_ALLOWED if nothing else kernel.NOT_FINITE, position)
        if self._adjusts or allowed is not None or self._params.temperature > 0:
            best = self._choose(logits, position, allowed)
        if self._params.logprobs is None:
            return Sampled(best)
        return _with_logprobs(logits, best, self._params.logprobs)

    def _choose(self, logits: Floats, position: int, allowed: NDArray[np.uint32] | None) -> int:
        x = logits
        if self._adjusts:
            x = self._adjusted(logits)
            if not x.max() < np.inf:
                raise _failure(kernel.OUT_OF_RANGE, position)
        ids: Ids | None = None  # None: x holds every token, in order
        if allowed is not None:
            ids = allowed_ids(allowed, len(logits))
            x = x[ids]
        if len(x) == 0 or (best := int(x.argmax()), x[best])[1] == -np.inf:
            raise _failure(kernel.NONE_ALLOWED, position)
        if self._params.temperature > 0:
            kept = self._survivors(x, x[best])
            best = int(kept[self._draw(x, x[best], kept, ids, position)])
        return best if ids is None else int(ids[best])

    def _adjusted(self, logits: Floats) -> Floats:
        """A copy with bias and penalties."""
        params = self._params
        x = logits.copy()
        x[self._bias_ids] += self._bias
        if self._repeats and self._seen_ids:
            seen = np.frombuffer(self._seen_ids, dtype=np.int64)
            value = x[seen]
            scale = self._repetition
            with np.errstate(over="ignore", invalid="ignore"):  # `_choose` looks at the result
                x[seen] = np.where(value < 0, value * scale, value / scale)
        if self._output_ids:
            output = np.frombuffer(self._output_ids, dtype=np.int64)
            counts = np.frombuffer(self._output_counts, dtype=np.float32)
            frequency, presence = params.frequency_penalty, params.presence_penalty
            x[output] -= counts * np.float32(frequency) + np.float32(presence)
        return x

    def _scaled(self, x: Floats, top: np.float32) -> Floats:
        """Logits over temperature, the largest at 0."""
        return (x - top) / self._temperature

    def _survivors(self, x: Floats, top: np.float32) -> Ids:
        """The indices, rising, that top-k, top-p and min-p leave over; never empty."""
        params = self._params
        if 0 < params.top_k < len(x):
            cut = len(x) - params.top_k
            kept = np.flatnonzero(x >= np.partition(x, cut)[cut])
        else:
            kept = np.flatnonzero(x > -np.inf)
        if params.top_p < 1.0:
            weights = weights_of(self._scaled(x[kept], top))
            kept = kept[_nucleus(x[kept], weights, params.top_p)]
        if params.min_p > 0.0:
            kept = kept[self._scaled(x[kept], top) >= _min_z(params.min_p)]
        return kept

    def _draw(self, x: Floats, top: np.float32, kept: Ids, ids: Ids | None, position: int) -> int:
        """The place in `kept` of the token with the greatest logit plus noise.

        Logarithms are the cost.  Of many candidates, first the likely ones get their noise; of
        the others only those get theirs whose integers are large enough to beat what was reached.
        """
        z = self._scaled(x[kept], top)
        tokens = kept if ids is None else ids[kept]
        key = noise_key(self._seed, position)
        if len(kept) <= _FEW:
            return int((z + gumbel_noise(noise_bits(key, tokens))).argmax())
        likely = np.flatnonzero(z > _LIKELY)
        reached = float((z[likely] + gumbel_noise(noise_bits(key, tokens[likely]))).max())
        rivals = np.flatnonzero(z > reached - _MAX_NOISE)
        bits = noise_bits(key, tokens[rivals])
        needed = math.exp(-math.exp(_LIKELY - reached)) * 2.0**32 * (1 - 1e-6)
        able = (bits >= np.uint32(needed)) | (z[rivals] > _LIKELY)
        rivals, bits = rivals[able], bits[able]
        return int(rivals[(z[rivals] + gumbel_noise(bits)).argmax()])


def allowed_ids(allowed: NDArray[np.uint32], vocab_size: int) -> Ids:
    """The token ids, rising, whose bit is set; those from `vocab_size` on are left out."""
    words = np.ascontiguousarray(allowed, dtype="<u4")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    return np.flatnonzero(bits[:vocab_size].view(np.bool_))


def noise_key(seed: int, position: int) -> int:
    """The 64-bit key of a position; see the top of this file."""
    return _mix64(_mix64((seed + _GOLDEN) & _MASK64) + (position + 1) * _GOLDEN & _MASK64)


def noise_bits(key: int, tokens: Ids) -> NDArray[np.uint32]:
    """h(token) for each token: uint32, the shape of `tokens`."""
    x = tokens.astype(np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    return _fmix32(_fmix32(x) + np.uint32(key >> 32))


def gumbel_noise(bits: NDArray[np.uint32]) -> Doubles:
    """Standard Gumbel noise from the integers of `noise_bits`: float64, of the same shape."""
    u: Doubles = (bits.astype(np.float64) + 0.5) * 2.0**-32
    return -natural_log(-natural_log(u))


def natural_log(y: Doubles) -> Doubles:
    """log(y) to about 1e-16, for normal numbers above 0: the same bits as in C.

    The mantissa m, between sqrt(1/2) and sqrt(2), by the series of 2 artanh((m - 1) / (m + 1)).
    """
    m, exponent = np.frexp(y)
    small = m < math.sqrt(0.5)
    m = np.where(small, m + m, m)
    exponent = exponent - small
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    p = np.full_like(q, 1.0 / 21.0)
    for k in range(19, 0, -2):
        p = p * q + 1.0 / k
    log: Doubles = exponent * math.log(2.0) + (s + s) * p
    return log


def weights_of(z: Floats) -> Doubles:
    """exp(z) for z <= 0, to about 1e-7 of it and to a multiple of 2^-34: the same bits as in C.

    Sums of less than 2^19 of them are exact, hence the same in any order.
    """
    z = np.maximum(z, np.float32(-30.0))
    power = np.rint(z * np.float32(1.442695041))
    high, low = np.float32(0.693359375), np.float32(-2.1219444e-4)  # of log(2)
    r = (z - power * high) - power * low
    p = np.zeros_like(r)
    for k in (720, 120, 24, 6, 2, 1, 1):  # Taylor's series
        p = p * r + np.float32(1.0) / np.float32(k)
    weights: Doubles = np.ldexp(p, power.astype(np.int32)).astype(np.float64)
    to_multiple = 1.5 * 2.0**18
    weights += to_multiple
    weights -= to_multiple
    return weights


def log_normalizer(logits: Floats) -> float:
    """log(sum(exp(logits))), natural; logits fp32 [V], finite or -inf."""
    top = logits.max()
    return float(top) + math.log(float(np.exp(logits - top).sum(dtype=np.float64)))


def _mix64(x: int) -> int:
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK64
    return x ^ x >> 31


def _fmix32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return x ^ x >> np.uint32(16)


def _nucleus(x: Floats, weights: Doubles, top_p: float) -> Ids:
    """The indices, rising, of the smallest set of largest logits with `top_p` of the weight.

    The tokens lighter than (1 - top_p) / n of the weight have less than 1 - top_p together, so
    they are outside: only the others are sorted.  (Half of that, to be safe from rounding.)
    """
    total = float(weights.sum())
    heavy = np.flatnonzero(weights >= 0.5 * (1.0 - top_p) * total / len(weights))
    order = heavy[np.argsort(-x[heavy], kind="stable")]
    mass = np.cumsum(weights[order])
    size = int(np.searchsorted(mass, top_p * total)) + 1
    return np.sort(order[:size])


def _min_z(min_p: float) -> np.float32:
    """The least logit over temperature, relative to the largest."""
    return np.float32(math.log(min_p) if min_p > 0.0 else -np.inf)


def _failure(code: int, position: int) -> SgenError:
    """Why a row has no token."""
    if code == kernel.NONE_ALLOWED:
        return SgenError(f"no token is allowed at position {position}")
    if code == kernel.OUT_OF_RANGE:
        return SgenError(
            f"the penalties make logits for position {position} that are not finite",
            hint="use a repetition_penalty that is nearer to 1",
        )
    return SgenError(
        f"the model's logits for position {position} are not finite",
        hint="the weights or the numerics of this model are broken for this input",
    )


def _with_logprobs(logits: Floats, token: int, count: int) -> Sampled:
    log_z = log_normalizer(logits)
    top: Ids = np.zeros(0, dtype=np.int64)
    count = min(count, len(logits))
    if count > 0:
        cut = len(logits) - count
        top = np.flatnonzero(logits >= np.partition(logits, cut)[cut])
        top = top[np.argsort(-logits[top], kind="stable")][:count]
    pairs = tuple((int(t), float(logits[t]) - log_z) for t in top)
    return Sampled(token, float(logits[token]) - log_z, pairs)
