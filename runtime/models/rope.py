"""Rotary position embedding: the frequencies of each variant, as Hugging Face defines them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sgen.runtime.config import RopeConfig


class Rope:
    """cos and sin tables [T, R/2] for given positions."""

    def __init__(self, config: RopeConfig, device: torch.device | str = "cpu") -> None:
        self._frequencies = frequencies(config).to(device)
        # Only yarn scales the amplitude; in the others it is 1.
        self._amplitude = config.attention_factor if config.kind == "yarn" else 1.0

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions int64 [T] -> cos, sin fp32 [T, R/2], on the device of both."""
        angles = positions.to(torch.float32)[:, None] * self._frequencies
        return angles.cos() * self._amplitude, angles.sin() * self._amplitude


class RopeTable:
    """The rows of `Rope` for positions 0, 1, ..., as many as were asked for so far."""

    BLOCK = 4096  # positions that are computed at once, always the same ones

    def __init__(self, config: RopeConfig) -> None:
        self._rope = Rope(config)
        none = np.empty((0, config.rotary_dim // 2), np.float32)
        self._tables = none, none

    def upto(self, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """cos and sin, fp32 [at least `count`, R/2]; valid for as long as the caller holds them."""
        cos, sin = self._tables
        while len(cos) < count:
            more_cos, more_sin = self._rope(torch.arange(len(cos), len(cos) + self.BLOCK))
            cos = np.concatenate([cos, more_cos.numpy()])
            sin = np.concatenate([sin, more_sin.numpy()])
            self._tables = cos, sin  # at once: other threads may be reading
        return cos, sin


def frequencies(config: RopeConfig) -> Tensor:
    """Angular frequencies fp32 [R/2], in radians a token."""
    exponents = torch.arange(0, config.rotary_dim, 2).to(torch.float32) / config.rotary_dim
    base = 1.0 / torch.pow(config.theta, exponents)
    if config.freq_factors is not None:
        base = base / torch.tensor(config.freq_factors, dtype=torch.float32)
    match config.kind:
        case "none":
            return base
        case "linear":
            return base / config.factor
        case "llama3":
            return _llama3(base, config)
        case "yarn":
            return _yarn(base, config)


def _llama3(base: Tensor, config: RopeConfig) -> Tensor:
    """Long wavelengths slowed by `factor`, short ones kept, those between blended (Llama 3.1)."""
    wavelength = 2 * math.pi / base
    low, high = config.low_freq_factor, config.high_freq_factor
    blend = (config.original_context / wavelength - low) / (high - low)
    blended = (1 - blend) * base / config.factor + blend * base
    slowed = torch.where(wavelength > config.original_context / low, base / config.factor, base)
    medium = (wavelength <= config.original_context / low) & (
        wavelength >= config.original_context / high
    )
    return torch.where(medium, blended, slowed)


def _yarn(base: Tensor, config: RopeConfig) -> Tensor:
    """NTK-by-parts interpolation (Peng et al. 2023, YaRN, section 3.2)."""
    dim, context = config.rotary_dim, config.original_context

    def correction(rotations: float) -> float:
        turns = math.log(context / (rotations * 2 * math.pi))
        return dim * turns / (2 * math.log(config.theta))

    low = max(math.floor(correction(config.beta_fast)), 0)
    high = min(math.ceil(correction(config.beta_slow)), dim - 1)
    width = max(high - low, 0.001)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return base / config.factor * ramp + base * (1 - ramp)
