"""The kinds of cases that tests check and benchmarks time, and the list of those that the tests check.

A case is a frozen dataclass that says everything about one call: shapes, options, memory layout, tags, ``flops()`` and
``bytes()``. ``make_inputs(case)`` draws its arrays, the same ones every time (seeded by the case's name). The tests run
the lists at the end of this file; ``benchmarks/`` makes its own sizes of the same classes. To add a case, add a line to
the generator of its family; every test of the family then runs it.

Tags: ``small`` (milliseconds on every ISA), ``long`` (many keys or rows: the paths for long rows and few queries),
``engine`` (uses an option beyond masks, lengths, causal and GQA).

Sizes straddle the register tiles (4, 6, 8, 12, 16, 32, 64 wide) and the blocks: n - 1, n and n + 1 of each.
Shape letters: B, H, Hkv, Lq, Lk, D, Dv for attention; M, N, K for linear layers.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

import numpy as np

from transformer_fast.functional import DistanceScores

STRADDLING = (1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 47, 48, 49, 63, 64, 65, 128, 197, 257)
HEAD_SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 47, 48, 63, 65, 72, 80, 96, 127, 128, 129, 160, 256)


def generator(name: str) -> np.random.Generator:
    """The random numbers that belong to `name`: the same in every process (``hash`` of a string is not)."""
    return np.random.default_rng(zlib.crc32(name.encode()))


# ---------------------------------------------------------------------------------------------------------------------
# Memory layouts of an operand (B, H, L, D)


def arrange(array: np.ndarray, layout: str) -> np.ndarray:
    """A view with the values of `array` (B, H, L, D) that lies in memory as `layout` says."""
    B, H, L, D = array.shape
    if layout == "contiguous":
        return np.ascontiguousarray(array)
    if layout == "blhd":  # what a linear layer gives: heads side by side within a token
        return np.ascontiguousarray(array.swapaxes(1, 2)).swapaxes(1, 2)
    if layout == "fused":  # one of three in a fused QKV product
        base = np.zeros((B, L, 3, H, D), array.dtype)
        base[:, :, 1] = array.swapaxes(1, 2)
        return base[:, :, 1].swapaxes(1, 2)
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "reversed":  # negative strides
        return np.ascontiguousarray(array[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1]
    if layout == "sparse":  # every second element of a wider array, in each dimension
        base = np.zeros((2 * B, 2 * H, 2 * L, 2 * D), array.dtype)
        base[::2, ::2, ::2, ::2] = array
        return base[::2, ::2, ::2, ::2]
    raise ValueError(f"layout {layout!r} is unknown")


LAYOUTS = ("contiguous", "blhd", "fused", "fortran", "reversed", "sparse")


# ---------------------------------------------------------------------------------------------------------------------
# Attention


@dataclass(frozen=True)
class AttentionCase:
    """One call of scaled_dot_product_attention. Hkv = 0 means H, Dv = 0 means D."""

    name: str
    B: int
    H: int
    Lq: int
    Lk: int
    D: int
    Hkv: int = 0
    Dv: int = 0
    is_causal: bool = False
    causal_offset: int | str = 0  # an int, "bottom_right", or "ragged": one a batch entry
    window: tuple[int, int] = (-1, -1)
    ragged: bool = False  # kv_lengths of all sizes from 0 to Lk
    mask: str = ""  # bool, float, padding (B,1,1,Lk), rows (Lq,Lk), keys (Lk,), dead (some rows all -inf)
    scale: float | None = None
    softcap: float = 0.0
    relative_bias: str = ""  # heads (H, ...) or shared (1, ...)
    distance: str = ""  # the terms of DistanceScores: query, key or both
    alibi: bool = False
    sinks: bool = False
    layout: str = "contiguous"
    tags: frozenset[str] = field(default=frozenset({"small"}))

    def __post_init__(self):
        object.__setattr__(self, "Hkv", self.Hkv or self.H)
        object.__setattr__(self, "Dv", self.Dv or self.D)

    def pairs(self) -> int:
        """How many (query, key) pairs structure leaves visible, over all B and H."""
        offset = self.Lk - self.Lq if self.causal_offset == "bottom_right" else self.causal_offset
        if offset == "ragged" or self.ragged:
            raise ValueError(f"case {self.name}: pairs() depends on its random lengths")
        p = np.arange(self.Lq) + offset
        low = np.maximum(p - self.window[0], 0) if self.window[0] >= 0 else np.zeros_like(p)
        high = np.full_like(p, self.Lk)
        if self.is_causal:
            high = np.minimum(high, p + 1)
        if self.window[1] >= 0:
            high = np.minimum(high, p + self.window[1] + 1)
        return self.B * self.H * int(np.maximum(high - low, 0).sum())

    def flops(self) -> int:
        """Multiplications and additions of the two matrix products over the visible pairs."""
        return 2 * self.pairs() * (self.D + self.Dv)

    def bytes(self) -> int:
        """float32 bytes of query, key, value and output, each counted once."""
        queries, keys = self.B * self.H * self.Lq, self.B * self.Hkv * self.Lk
        return 4 * (queries + keys) * (self.D + self.Dv)

    def make_inputs(self, dtype=np.float32) -> tuple[list[np.ndarray], dict]:
        """([query, key, value], options): the arguments of scaled_dot_product_attention."""
        rng = generator(self.name)
        B, H, Lq, Lk = self.B, self.H, self.Lq, self.Lk

        def normal(*shape):
            return rng.standard_normal(shape).astype(np.float32).astype(dtype)

        shapes = (B, H, Lq, self.D), (B, self.Hkv, Lk, self.D), (B, self.Hkv, Lk, self.Dv)
        arrays = [arrange(normal(*shape), self.layout) for shape in shapes]
        options = {}
        if self.is_causal:
            options["is_causal"] = True
        if self.Hkv != H:
            options["enable_gqa"] = True
        if self.scale is not None:
            options["scale"] = self.scale
        if self.causal_offset == "ragged":
            options["causal_offset"] = rng.integers(-Lq, Lk + 1, B)
        elif self.causal_offset != 0:
            options["causal_offset"] = self.causal_offset
        if self.window != (-1, -1):
            options["window"] = self.window
        if self.ragged:
            options["kv_lengths"] = np.linspace(Lk, 0, B).astype(np.int64)
        if self.mask:
            options["attn_mask"] = _make_mask(self.mask, (B, H, Lq, Lk), rng, normal)
        if self.softcap:
            options["softcap"] = self.softcap
        if self.relative_bias:
            options["relative_bias"] = normal(1 if self.relative_bias == "shared" else H, max(Lq + Lk - 1, 0))
        if self.distance:
            options["distance_scores"] = distance_scores(self.distance, (B, H, Lq), (B, H, Lk), Lq, Lk, seed=self.Lk)
        if self.alibi:
            options["alibi_slopes"] = (2.0 ** -np.arange(1, H + 1)).astype(dtype)
        if self.sinks:
            options["sinks"] = normal(H)
        return arrays, options


def distance_scores(terms, of_query, of_key, Lq, Lk, seed, most=11):
    """DistanceScores of random terms, whose shapes are given without the last axis. Buckets rise by 1 a distance in the
    middle, then more slowly, up to `most`, as those of DeBERTa do."""
    distance = np.arange(1 - Lq, Lk)
    slow = np.minimum(np.abs(distance), 5 + np.abs(distance) // 6)
    bucket = np.clip(np.sign(distance) * slow, -most, most)
    bucket -= bucket.min(initial=0)
    rng, N = np.random.default_rng(seed), int(bucket.max(initial=0)) + 1
    arrays = (rng.standard_normal((*shape, N)).astype(np.float32) for shape in (of_query, of_key))
    named = zip(("query", "key"), arrays, strict=True)
    return DistanceScores(*(array if terms in (name, "both") else None for name, array in named), bucket)


def _make_mask(kind, shape, rng, normal):
    B, H, Lq, Lk = shape
    if kind == "bool":
        return rng.random(shape) < 0.7
    if kind == "float":
        return normal(*shape)
    if kind == "padding":
        lengths = np.linspace(Lk, 1, B).astype(np.int64)
        return (np.arange(Lk) < lengths[:, None])[:, None, None, :]
    if kind == "rows":
        return rng.random((Lq, Lk)) < 0.7
    if kind == "keys":
        return normal(Lk)
    if kind == "dead":
        mask = normal(*shape)
        mask[rng.random((B, H, Lq)) < 0.4] = -np.inf
        return mask
    raise ValueError(f"mask {kind!r} is unknown")


def _attention_cases():
    engine, long = frozenset({"small", "engine"}), frozenset({"long"})

    # Every length as both, as queries against one key block and as keys against one query block.
    for n in STRADDLING:
        yield AttentionCase(f"L{n}", 1, 2, n, n, 64)
        yield AttentionCase(f"L{n}-causal", 1, 1, n, n, 64, is_causal=True)
        yield AttentionCase(f"Lq1-Lk{n}", 2, 2, 1, n, 64)
        yield AttentionCase(f"Lq{n}-Lk33", 1, 1, n, 33, 32)
        yield AttentionCase(
            f"Lq19-Lk{n}-causal-end", 1, 1, 19, n, 32, is_causal=True, causal_offset="bottom_right", tags=engine
        )
    # Head sizes: of the value as of the key, and of one only.
    for d in HEAD_SIZES:
        yield AttentionCase(f"D{d}", 1, 2, 13, 35, d)
        yield AttentionCase(f"D{d}-Dv20", 1, 1, 5, 18, d, Dv=20)
        yield AttentionCase(f"D20-Dv{d}", 1, 1, 14, 18, 20, Dv=d)
    # Each option alone, at a size within one tile and at one that straddles several.
    for B, Lq, Lk, D in ((2, 5, 7, 16), (3, 70, 133, 40)):
        shape = (B, 4, Lq, Lk, D)
        at = f"{Lq}x{Lk}"
        for mask in ("bool", "float", "padding", "rows", "keys", "dead"):
            yield AttentionCase(f"mask-{mask}-{at}", *shape, mask=mask)
        yield AttentionCase(f"lengths-{at}", *shape, ragged=True)
        yield AttentionCase(f"scale-{at}", *shape, scale=0.3)
        yield AttentionCase(f"gqa-{at}", *shape, Hkv=2)
        yield AttentionCase(f"mqa-{at}", *shape, Hkv=1)
        for offset in (3, -3, Lk, -Lq, "bottom_right", "ragged"):
            yield AttentionCase(f"offset-{offset}-{at}", *shape, is_causal=True, causal_offset=offset, tags=engine)
        for window in ((2, -1), (-1, 2), (1, 1), (0, 0), (40, 0), (0, 40), (Lk, Lk)):
            yield AttentionCase(f"window-{window[0]},{window[1]}-{at}", *shape, window=window, tags=engine)
        yield AttentionCase(f"window-offset-{at}", *shape, window=(9, 5), causal_offset=Lk // 2, tags=engine)
        yield AttentionCase(f"window-causal-{at}", *shape, window=(9, 5), is_causal=True, tags=engine)
        yield AttentionCase(f"softcap-{at}", *shape, softcap=1.5, tags=engine)
        yield AttentionCase(f"bias-{at}", *shape, relative_bias="heads", tags=engine)
        yield AttentionCase(f"bias-shared-{at}", *shape, relative_bias="shared", tags=engine)
        for terms in ("query", "key", "both"):
            yield AttentionCase(f"distance-{terms}-{at}", *shape, distance=terms, tags=engine)
        yield AttentionCase(f"distance-gqa-{at}", *shape, Hkv=2, distance="both", mask="padding", tags=engine)
        yield AttentionCase(f"alibi-{at}", *shape, alibi=True, tags=engine)
        yield AttentionCase(f"alibi-offset-{at}", *shape, alibi=True, causal_offset=-2, is_causal=True, tags=engine)
        yield AttentionCase(f"sinks-{at}", *shape, sinks=True, tags=engine)
    # Options together.
    for Lq, Lk in ((1, 50), (9, 9), (33, 100)):
        shape, at = (3, 4, Lq, Lk, 24), f"{Lq}x{Lk}"
        for causal in (False, True):
            for ragged in (False, True):
                for mask in ("", "bool", "dead"):
                    name = f"both-{'causal-' * causal}{'lengths-' * ragged}{mask + '-' * bool(mask)}{at}"
                    yield AttentionCase(name, *shape, Hkv=2, is_causal=causal, ragged=ragged, mask=mask)
        everything = dict(Hkv=2, is_causal=True, causal_offset="ragged", ragged=True, softcap=2.0, scale=0.2)
        everything |= dict(relative_bias="heads", distance="both", alibi=True, sinks=True, window=(20, 3), tags=engine)
        for mask in ("bool", "float"):
            yield AttentionCase(f"everything-{mask}-{at}", *shape, mask=mask, Dv=40, **everything)
    # Layouts, plain and with masks and groups.
    for layout in LAYOUTS[1:]:
        yield AttentionCase(f"layout-{layout}", 2, 3, 21, 34, 24, layout=layout)
        yield AttentionCase(f"layout-{layout}-long-D", 2, 2, 70, 67, 64, layout=layout, is_causal=True)
        yield AttentionCase(f"layout-{layout}-gqa", 2, 4, 1, 70, 32, Hkv=2, layout=layout, mask="bool")
    # Nothing to do.
    for B, H, Lq, Lk in ((0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0), (2, 2, 0, 0)):
        yield AttentionCase(f"empty-{B}-{H}-{Lq}-{Lk}", B, H, Lq, Lk, 8)
    # Rows too long for one block of scores; few queries against many keys, where work is split over the keys.
    yield AttentionCase("long-square", 1, 1, 1030, 1030, 32, tags=long)
    yield AttentionCase("long-causal", 1, 1, 1030, 1030, 32, is_causal=True, tags=long)
    yield AttentionCase("long-keys", 1, 2, 100, 4099, 64, tags=long)
    yield AttentionCase("long-mask", 1, 2, 50, 3000, 64, mask="bool", tags=long)
    yield AttentionCase("long-dead", 1, 2, 50, 3000, 64, mask="dead", is_causal=True, causal_offset=2000, tags=long)
    yield AttentionCase("long-window", 1, 1, 1500, 1500, 16, window=(100, 0), is_causal=True, tags=long)
    for Lq in (1, 2, 3, 8):
        yield AttentionCase(f"decode-{Lq}", 1, 2, Lq, 4097, 64, tags=long)
        yield AttentionCase(f"decode-gqa-{Lq}", 2, 8, Lq, 1029, 128, Hkv=2, tags=long)
        yield AttentionCase(f"decode-all-{Lq}", 2, 8, Lq, 2500, 80, Hkv=2, ragged=True, mask="bool", tags=long)


# ---------------------------------------------------------------------------------------------------------------------
# Linear layers


@dataclass(frozen=True)
class LinearCase:
    """One call of linear: x (M, K), weight (N, K)."""

    name: str
    M: int
    N: int
    K: int
    activation: str | None = None
    bias: bool = False
    residual: bool = False
    tags: frozenset[str] = field(default=frozenset({"small"}))

    def flops(self) -> int:
        return 2 * self.M * self.N * self.K

    def bytes(self) -> int:
        return 4 * (self.M * self.K + self.N * self.K + self.M * self.N)

    def make_inputs(self, dtype=np.float32) -> tuple[list[np.ndarray], dict]:
        """([x, weight], options): the arguments of linear. The weight is scaled by 1/sqrt(K), so that y is N(0,1)."""
        rng = generator(self.name)

        def normal(*shape):
            return rng.standard_normal(shape).astype(np.float32).astype(dtype)

        weight = (normal(self.N, self.K) / math.sqrt(max(self.K, 1))).astype(np.float32).astype(dtype)
        options = {}
        if self.bias:
            options["bias"] = normal(self.N)
        if self.activation is not None:
            options["activation"] = self.activation
        if self.residual:
            options["residual"] = normal(self.M, self.N)
        return [normal(self.M, self.K), weight], options


ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu", "tanh", "quick_gelu")


def _linear_cases():
    long = frozenset({"long"})
    for n in STRADDLING:
        yield LinearCase(f"M{n}", n, 40, 50, bias=True)
        yield LinearCase(f"N{n}", 13, n, 50, bias=True)
        yield LinearCase(f"K{n}", 13, 40, n, bias=True)
        yield LinearCase(f"MNK{n}", n, n, n)
    for m in (2, 3, 4, 5, 6, 10, 11, 12, 13):
        yield LinearCase(f"M{m}-few-rows", m, 70, 67, bias=True, activation="gelu", residual=True)
    for n in (31, 32, 33, 95, 96, 97):
        yield LinearCase(f"N{n}-panels", 14, n, 24, residual=True)
    for activation in ACTIVATIONS:
        for bias in (False, True):
            for residual in (False, True):
                name = f"{activation or 'plain'}{'-bias' * bias}{'-residual' * residual}"
                options = dict(activation=activation, bias=bias, residual=residual)
                yield LinearCase(f"epilogue-{name}", 29, 45, 37, **options)
                yield LinearCase(f"epilogue-{name}-row", 1, 130, 64, **options)
    for M, N, K in ((0, 5, 3), (4, 0, 3), (4, 5, 0), (0, 0, 0)):
        yield LinearCase(f"empty-{M}-{N}-{K}", M, N, K, bias=True, activation="gelu")
    # Products cut along K (the blocks are some hundred long) and along N, with every epilogue on the last block only.
    for K in (511, 512, 513, 767, 768, 769, 1536, 3072):
        yield LinearCase(f"K{K}-deep", 25, 65, K, bias=True, activation="gelu", residual=True, tags=long)
    yield LinearCase("wide", 37, 3073, 100, bias=True, tags=long)
    yield LinearCase("tall", 1501, 70, 64, bias=True, activation="silu", tags=long)
    yield LinearCase("row-wide", 1, 3072, 768, bias=True, tags=long)
    yield LinearCase("four-rows-deep", 4, 768, 3072, bias=True, tags=long)


# ---------------------------------------------------------------------------------------------------------------------
# Late interaction


@dataclass(frozen=True)
class MaxSimCase:
    """Queries and documents by their numbers of rows."""

    name: str
    queries: tuple[int, ...]
    documents: tuple[int, ...]
    D: int
    tags: frozenset[str] = field(default=frozenset({"small"}), compare=False)

    def flops(self) -> int:
        return 2 * sum(self.queries) * sum(self.documents) * self.D

    def make_inputs(self) -> dict[str, np.ndarray]:
        """Vectors of about length 1, as ColBERT's, and where each query and document begins."""
        rng = generator(self.name)
        packed = (rng.standard_normal((sum(n), self.D)) / self.D**0.5 for n in (self.queries, self.documents))
        queries, documents = (rows.astype(np.float32) for rows in packed)
        return {
            "queries": queries,
            "documents": documents,
            "cu_seqlens": np.cumsum([0, *self.documents]),
            "cu_queries": np.cumsum([0, *self.queries]),
        }


def max_sim_cases(tag: str = "small") -> list[MaxSimCase]:
    return [case for case in _max_sim_cases() if tag in case.tags]


def _max_sim_cases():
    straddling = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)
    for n in (1, 7, 8, 9, 16, 17, 24, 25, 32, 33, 48, 49, 64, 97):
        yield MaxSimCase(f"one-query-{n}", (n,), straddling, 40)
    for D in (1, 3, 16, 129, 300):
        yield MaxSimCase(f"D{D}", (5, 3), (7, 12), D)
    yield MaxSimCase("queries", (3, 0, 30, 1, 65, 16), (9, 0, 0, 300, 1, 0), 33)
    yield MaxSimCase("long-document", (32,), (1025, 257), 128)
    yield MaxSimCase("no-documents", (3, 2), (), 8)
    yield MaxSimCase("no-queries", (), (3, 2), 8)
    yield MaxSimCase("colbert", (32,), (180,) * 1000, 128, frozenset({"speed"}))
    yield MaxSimCase("colbert-16-queries", (32,) * 16, (180,) * 1000, 128, frozenset({"speed"}))


# ---------------------------------------------------------------------------------------------------------------------
# Rows: layer norm, softmax, activations; heads


@dataclass(frozen=True)
class RowsCase:
    """Operand of an op that works on rows: shape (..., N)."""

    name: str
    shape: tuple[int, ...]
    tags: frozenset[str] = field(default=frozenset({"small"}))

    def flops(self) -> int:
        """One for each element: these ops are bound by memory and compared in bytes."""
        return math.prod(self.shape)

    def bytes(self) -> int:
        return 8 * math.prod(self.shape)

    def make_inputs(self, dtype=np.float32) -> dict[str, np.ndarray]:
        """x and residual of the shape, weight and bias (N,)."""
        rng = generator(self.name)
        shapes = {"x": self.shape, "residual": self.shape, "weight": self.shape[-1:], "bias": self.shape[-1:]}
        return {name: rng.standard_normal(shape).astype(np.float32).astype(dtype) for name, shape in shapes.items()}


def _rows_cases():
    for n in (*STRADDLING, 2, 3, 31, 32, 33, 384, 768):
        yield RowsCase(f"N{n}", (5, n))
    for m in (1, 2, 3, 64, 257):
        yield RowsCase(f"rows-{m}", (m, 40))
    yield RowsCase("1-D", (37,))
    yield RowsCase("4-D", (2, 3, 4, 33))
    for shape in ((0, 8), (3, 0, 8), (0,)):
        yield RowsCase("empty-" + "-".join(map(str, shape)), shape)
    yield RowsCase("long-row", (3, 5003), frozenset({"long"}))
    yield RowsCase("many-rows", (4001, 48), frozenset({"long"}))


@dataclass(frozen=True)
class HeadsCase:
    """x (B, L, H*D) <-> (B, H, L, D)."""

    name: str
    B: int
    L: int
    H: int
    D: int
    tags: frozenset[str] = field(default=frozenset({"small"}))

    def bytes(self) -> int:
        return 8 * self.B * self.L * self.H * self.D

    def make_inputs(self, dtype=np.float32) -> np.ndarray:
        shape = (self.B, self.L, self.H * self.D)
        return generator(self.name).standard_normal(shape).astype(np.float32).astype(dtype)


def _heads_cases():
    for d in (1, 3, 8, 15, 16, 17, 64, 65):
        yield HeadsCase(f"D{d}", 2, 9, 3, d)
    for length in (1, 7, 16, 65, 257):
        yield HeadsCase(f"L{length}", 1, length, 4, 32)
    yield HeadsCase("one-head", 2, 5, 1, 24)
    for B, L, H, D in ((0, 3, 2, 4), (2, 0, 2, 4)):
        yield HeadsCase(f"empty-{B}-{L}", B, L, H, D)


ATTENTION = tuple(_attention_cases())
LINEAR = tuple(_linear_cases())
ROWS = tuple(_rows_cases())
HEADS = tuple(_heads_cases())


def make_inputs(case, dtype=np.float32):
    """The arrays of `case` in `dtype`: what its own ``make_inputs`` says."""
    return case.make_inputs(dtype)


def tagged(cases, *tags: str) -> list:
    """The cases that have at least one of `tags`."""
    return [case for case in cases if case.tags & set(tags)]
