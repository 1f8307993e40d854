"""Frequencies of rotary positions, and how checkpoints stretch them to longer contexts ("RoPE scaling").

`nn.position.RotaryEmbedding` calls `RopeScaling`. Each kind is one function below, named in `_KINDS` with the fields
that it reads; a new kind is one more of both. Formulas and field names are those of transformers' modeling_rope_utils,
and so is the precision: models were trained with float32 frequencies, whose rounding shows at large positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Frequencies(NamedTuple):
    """The factors of positions, (dim / 2,) float32, and the factor of cos and sin."""

    inverse: np.ndarray
    attention_factor: float


@dataclass(frozen=True)
class RopeScaling:
    """One checked `rope_scaling` (or `rope_parameters`) of a checkpoint, ready to give frequencies."""

    dim: int
    base: float
    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    max_position_embeddings: int | None = None

    @classmethod
    def read(
        cls, dim: int, base: float, scaling: Mapping[str, Any] | None, max_position_embeddings: int | None
    ) -> RopeScaling:
        """The scaling that the dict describes; refuses unknown kinds, and missing, unknown and impossible fields."""
        if dim <= 0 or dim % 2:
            raise ValueError(f"dim is {dim}; needed: a positive even number")
        given = {name: value for name, value in (scaling or {}).items() if value is not None}
        kind = given.pop("rope_type", None) or given.get("type", "default")
        given.pop("type", None)
        given.pop("partial_rotary_factor", None)  # `dim` has it already
        base = given.pop("rope_theta", base)
        if kind not in _KINDS:
            raise ValueError(f"scaling has the type {kind!r}; needed: one of {sorted(_KINDS)}")
        _, needed, optional = _KINDS[kind]
        if kind in _STRETCHED:
            given.setdefault("original_max_position_embeddings", max_position_embeddings)
        missing = sorted(name for name in needed if given.get(name) is None)
        unknown = sorted(set(given) - set(needed) - set(optional))
        if missing or unknown:
            told = [f"lacks {missing}"] if missing else []
            told += [f"has the unknown fields {unknown}"] if unknown else []
            fields = [", ".join(sorted(names)) or "none" for names in (needed, optional)]
            raise ValueError(
                f"scaling of type {kind!r} {' and '.join(told)}; needed: {fields[0]}; optional: {fields[1]}"
            )
        if kind in ("yarn", "longrope") and given.get("factor") is None and max_position_embeddings is None:
            raise ValueError(f"scaling of type {kind!r} has no factor; needed: then max_position_embeddings")
        if kind == "dynamic" and max_position_embeddings is None:
            raise ValueError("max_position_embeddings is None; scaling of type 'dynamic' needs a number")
        if kind == "dynamic" and dim == 2:
            raise ValueError("dim is 2; scaling of type 'dynamic' needs at least 4")
        if base <= 0:
            raise ValueError(f"base (rope_theta) is {base}; needed: a positive number")
        for name in ("factor", "original_max_position_embeddings"):
            if given.get(name) is not None and given[name] <= 0:
                raise ValueError(f"scaling has {name}={given[name]}; needed: a positive number")
        for name in ("short_factor", "long_factor"):
            if name in given and len(given[name]) != dim // 2:
                raise ValueError(f"scaling has {len(given[name])} values in {name}; needed: dim / 2 = {dim // 2}")
        return cls(dim, float(base), kind, given, max_position_embeddings)

    @property
    def depends_on_length(self) -> bool:
        """Whether the length of the whole text changes the frequencies of all its positions."""
        return self.kind in ("dynamic", "longrope")

    def frequencies(self, length: int) -> Frequencies:
        """For a text of `length` tokens."""
        return _KINDS[self.kind].make(self, length)

    def _stretch(self) -> float:
        """`factor`; if absent, how much longer the context became."""
        if "factor" in self.fields:
            return self.fields["factor"]
        return self.max_position_embeddings / self.fields["original_max_position_embeddings"]


def _powers(dim: int, base: float) -> np.ndarray:
    """base^(2i / dim), rounded once to float32 from an exponent in float32."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.power(base, exponents.astype(np.float64)).astype(np.float32)


def _plain(dim: int, base: float) -> np.ndarray:
    return np.float32(1) / _powers(dim, base)


def _default(rope: RopeScaling, length: int) -> Frequencies:
    """Su et al. 2021, arXiv:2104.09864."""
    return Frequencies(_plain(rope.dim, rope.base), 1.0)


def _linear(rope: RopeScaling, length: int) -> Frequencies:
    """Positions divided by a factor: Chen et al. 2023, arXiv:2306.15595."""
    return Frequencies(_plain(rope.dim, rope.base) / np.float32(rope.fields["factor"]), 1.0)


def _dynamic(rope: RopeScaling, length: int) -> Frequencies:
    """A base that grows with the text once it is longer than max_position_embeddings ("dynamic NTK")."""
    factor, longest = rope.fields["factor"], rope.max_position_embeddings
    growth = np.float32(factor * max(length, longest)) / np.float32(longest) - np.float32(factor - 1)
    base = np.float32(rope.base) * np.float32(float(growth) ** (rope.dim / (rope.dim - 2)))
    return Frequencies(_plain(rope.dim, float(base)), 1.0)


def _llama3(rope: RopeScaling, length: int) -> Frequencies:
    """Long waves are stretched, short ones kept, those between blended: Llama 3.1."""
    plain = _plain(rope.dim, rope.base)
    factor, low, high, original = (
        rope.fields[name]
        for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    wavelength = np.float32(1) / plain * np.float32(2 * math.pi)
    waves = np.float32(1) / wavelength * np.float32(original)
    smooth = (waves - np.float32(low)) / np.float32(high - low)
    blended = (1 - smooth) * plain / np.float32(factor) + smooth * plain
    inverse = np.where(wavelength > original / low, plain / np.float32(factor), blended)
    return Frequencies(np.where(wavelength < original / high, plain, inverse), 1.0)


def _yarn(rope: RopeScaling, length: int) -> Frequencies:
    """Stretched by parts, with sharper attention: Peng et al. 2023, arXiv:2309.00071."""
    fields, dim, base = rope.fields, rope.dim, rope.base
    factor, original = rope._stretch(), fields["original_max_position_embeddings"]

    def sharpening(weight: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    def turning(rotations: float) -> float:
        """The index of the frequency that turns so often within the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = turning(fields.get("beta_fast") or 32), turning(fields.get("beta_slow") or 1)
    if fields.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a step, where a ramp of no width would divide by zero
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    powers, kept = _powers(dim, base), np.float32(1) - ramp
    stretched = np.float32(1) / (np.float32(factor) * powers)
    inverse = stretched * (1 - kept) + np.float32(1) / powers * kept
    attention_factor = fields.get("attention_factor")
    if attention_factor is None:
        weights = fields.get("mscale"), fields.get("mscale_all_dim")
        attention_factor = sharpening(weights[0]) / sharpening(weights[1]) if all(weights) else sharpening()
    return Frequencies(inverse, float(attention_factor))


def _longrope(rope: RopeScaling, length: int) -> Frequencies:
    """A factor for each frequency, another set for long texts: Ding et al. 2024, arXiv:2402.13753."""
    fields, original = rope.fields, rope.fields["original_max_position_embeddings"]
    factors = np.asarray(fields["long_factor" if length > original else "short_factor"], np.float32)
    attention_factor = fields.get("attention_factor")
    if attention_factor is None:
        factor = rope._stretch()
        attention_factor = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return Frequencies(np.float32(1) / (factors * _powers(rope.dim, rope.base)), float(attention_factor))


class _Kind(NamedTuple):
    make: Callable[[RopeScaling, int], Frequencies]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


# Kinds whose original context is max_position_embeddings where the dict does not name it.
_STRETCHED = ("llama3", "yarn", "longrope")
_KINDS: dict[str, _Kind] = {
    "default": _Kind(_default),
    "linear": _Kind(_linear, ("factor",)),
    "dynamic": _Kind(_dynamic, ("factor",)),
    "llama3": _Kind(_llama3, ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")),
    "yarn": _Kind(
        _yarn,
        ("original_max_position_embeddings",),
        ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": _Kind(
        _longrope, ("short_factor", "long_factor", "original_max_position_embeddings"), ("factor", "attention_factor")
    ),
}
