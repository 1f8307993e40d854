"""Helpers of the tests: comparing with the reference, and memory that is hard on code that reads too far.

Called by the test files; ``cases.py`` has the shapes, ``conftest.py`` the fixtures.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass, field

import numpy as np

from transformer_fast import functional, reference

TOLERANCE = 2e-6  # max abs error against float64, on N(0,1) data, for every op on every ISA


def rounds_x(isa: str) -> bool:
    """Whether products with weights in bfloat16 round x, too, on this level."""
    return isa in ("avx512bf16", "amx")


def widened(value):
    """`value` with its floating arrays in float64; lists and dicts are gone through."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biu":
        return value.astype(np.float64)
    if isinstance(value, dict):
        return {name: widened(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(widened(item) for item in value)
    return value


def assert_close(got, expected, tolerance=TOLERANCE):
    """Shape, type and values of a result: NaN and inf in the same places, the rest within `tolerance`, absolutely."""
    if isinstance(expected, tuple):
        assert isinstance(got, tuple) and len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other, tolerance)
        return
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite].astype(np.float32))
    assert np.isfinite(got[finite]).all()
    error = np.abs(got[finite].astype(np.float64) - expected[finite]).max(initial=0)
    assert error <= tolerance, f"max abs error {error:.3g} > {tolerance:.3g}"


def both(op: str, *args, tolerance=TOLERANCE, **options):
    """functional.<op> on the arguments agrees with reference.<op> on them in float64; the former's result."""
    expected = getattr(reference, op)(*widened(list(args)), **widened(options))
    got = getattr(functional, op)(*args, **options)
    assert_close(got, expected, tolerance)
    return got


def assert_same_bits(got, expected):
    """Equal bit for bit (NaN payloads and the sign of zero included)."""
    if isinstance(expected, tuple):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same_bits(one, other)
        return
    assert got.shape == expected.shape and got.dtype == expected.dtype
    bits, expected_bits = (np.array(array, order="C").view(np.uint32) for array in (got, expected))
    np.testing.assert_array_equal(bits, expected_bits)


def normal(*shape, seed=0) -> np.ndarray:
    """float32 N(0,1) data."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# One call of every op, for the tests that vary something else than the op


@dataclass(frozen=True)
class Call:
    """Arguments of one op: `operands` are its arrays, by the names of its parameters."""

    name: str
    op: str
    operands: dict[str, np.ndarray]
    options: dict = field(default_factory=dict)
    takes_out: bool = True

    def run(self, **changes):
        """The op's result, with some operands or options exchanged."""
        return getattr(functional, self.op)(**{**self.operands, **self.options, **changes})

    def expected(self, **changes):
        """The reference's result in float64, with the same changes."""
        return getattr(reference, self.op)(**widened({**self.operands, **self.options, **changes}))


def every_call(rows: int = 21, width: int = 19) -> list[Call]:
    """A call of every op with about `rows` rows (at least 5) of about `width`, and all operands that it can take."""
    B, H, Lq, Lk, D, K, N, V = 2, 2, rows, rows + 12, width, width + 18, width + 24, 51
    q, k, v = normal(B, H, Lq, D, seed=1), normal(B, H, Lk, D, seed=2), normal(B, H, Lk, D, seed=3)
    starts_q = np.array([0, 5, 5, Lq], np.int32)
    starts_k = np.array([0, 3, 10, Lk], np.int32)
    packed_q, packed_k, packed_v = normal(Lq, H, D, seed=4), normal(Lk, H, D, seed=5), normal(Lk, H, D, seed=6)
    rng = np.random.default_rng(7)
    mask, lengths = rng.random((B, H, Lq, Lk)) < 0.8, np.array([Lk, Lk - 5])
    x, residual = normal(rows, K, seed=8), normal(rows, N, seed=9)
    weight, bias = (normal(N, K, seed=10) / np.sqrt(K)).astype(np.float32), normal(N, seed=11)
    qkv, packs = dict(query=q, key=k, value=v), dict(query=packed_q, key=packed_k, value=packed_v)
    norm = dict(x=x, weight=normal(K, seed=12), bias=normal(K, seed=13), residual=normal(rows, K, seed=14))
    angles = dict(cos=normal(Lq, D // 2, seed=15), sin=normal(Lq, D // 2, seed=16))
    row = dict(query=q[:, :, :1].copy(), key=k, value=v, attn_mask=mask[:, :, :1].copy())
    sdpa, varlen = "scaled_dot_product_attention", "varlen_attention"
    units, outputs = width // 2 + 1, width // 4 + 1
    steps, many = normal(5, rows, K, seed=15), dict(lengths=np.arange(rows) % 6, direction="both")
    cells = {
        gates: dict(
            weight_ih=normal(2 * gates * units, K, seed=16) / K,
            weight_hh=normal(2 * gates * units, units, seed=17) / units,
            bias_ih=normal(2 * gates * units, seed=18),
            bias_hh=normal(2 * gates * units, seed=19),
            h_0=normal(2, rows, units, seed=20),
        )
        for gates in (3, 4)
    }
    narrow = dict(
        weight_hh=normal(8 * units, outputs, seed=21) / units,
        weight_hr=normal(2 * outputs, units, seed=22) / units,
        h_0=normal(2, rows, outputs, seed=23),
        c_0=normal(2, rows, units, seed=24),
    )
    late = dict(queries=normal(5, K, seed=25) / np.float32(K), documents=normal(rows, K, seed=26), cu_seqlens=starts_q)
    return [
        Call("attention", sdpa, dict(**qkv, attn_mask=normal(B, H, Lq, Lk)), dict(is_causal=True, causal_offset=4)),
        Call("attention-bool", sdpa, dict(**qkv, attn_mask=mask, kv_lengths=lengths)),
        Call("attention-row", sdpa, row),
        Call("varlen", varlen, dict(**packs, cu_seqlens_q=starts_q, cu_seqlens_k=starts_k)),
        Call("linear", "linear", dict(x=x, weight=weight, bias=bias, residual=residual), dict(activation="gelu")),
        Call("linear-row", "linear", dict(x=x[:1].copy(), weight=weight, bias=bias, residual=residual[:1].copy())),
        Call("linear-gated", "linear", dict(x=x, weight=weight, multiply=residual), dict(activation="silu")),
        Call("linear_max", "linear_max", dict(x=x, weight=weight, bias=bias, cu_seqlens=starts_q)),
        Call("matmul", "matmul", dict(a=normal(2, rows, K), b=normal(2, K, N) / np.float32(np.sqrt(K)))),
        Call("max_sim", "max_sim", late, dict(cu_queries=[0, 2, 2, 5])),
        Call("layer_norm", "layer_norm", norm),
        Call("rms_norm", "rms_norm", {name: norm[name] for name in ("x", "weight", "residual")}),
        Call("rotary", "rotary_embedding", dict(x=q, **angles)),
        Call("rotary-pairs", "rotary_embedding", dict(x=q, **angles), dict(interleaved=True)),
        Call("softmax", "softmax", dict(x=x)),
        Call("softmax-axis", "softmax", dict(x=normal(3, rows, 5)), dict(axis=1)),
        Call("gelu", "gelu", dict(x=x)),
        Call("gelu_tanh", "gelu", dict(x=x), dict(approximate="tanh")),
        Call("relu", "relu", dict(x=x)),
        Call("silu", "silu", dict(x=x)),
        Call("tanh", "tanh", dict(x=x)),
        Call("quick_gelu", "quick_gelu", dict(x=x)),
        Call("lstm", "lstm", dict(x=steps, **cells[4], c_0=normal(2, rows, units)), many, takes_out=False),
        Call("lstm-projected", "lstm", dict(x=steps, **cells[4] | narrow), many, takes_out=False),
        Call("gru", "gru", dict(x=steps, **cells[3]), many, takes_out=False),
        Call("embedding", "embedding", dict(ids=rng.integers(0, V, (3, rows)), weight=normal(V, N))),
        Call("split_heads", "split_heads", dict(x=normal(B, rows, H * D)), dict(num_heads=H), takes_out=False),
        Call("concat_heads", "concat_heads", dict(x=q), takes_out=False),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Memory between two pages that may not be touched

_PAGE = mmap.PAGESIZE
_PROT_NONE, _PROT_READ = 0, 1


def _protect(address: int, length: int, protection: int):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(address, length, protection) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")


def guarded(array: np.ndarray, end: bool, writable: bool = False) -> np.ndarray:
    """A C-contiguous copy of `array` that ends at (or, with end=False, starts after) a page that may not be touched.

    Its other side borders on such a page as well, up to the rounding to whole pages. Without `writable` the memory
    itself is made read-only. The mapping lives as long as the process, which is why the guard tests run in children.
    """
    pages = -(-max(array.nbytes, 1) // _PAGE)
    mapping = mmap.mmap(-1, (pages + 2) * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    start = (pages + 1) * _PAGE - array.nbytes if end else _PAGE
    copy = np.frombuffer(mapping, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    _protect(address, _PAGE, _PROT_NONE)
    _protect(address + (pages + 1) * _PAGE, _PAGE, _PROT_NONE)
    if not writable:
        _protect(address + _PAGE, pages * _PAGE, _PROT_READ)
        copy.flags.writeable = False
    return copy


def far_apart(shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """float32 zeros whose elements lie up to many GiB apart: address space, of which only touched pages take memory."""
    extent = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 4
    noreserve = 0x4000  # Linux MAP_NORESERVE; the mmap module names it only from Python 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve
    base = np.frombuffer(mmap.mmap(-1, extent, flags=flags), np.float32, extent // 4)
    return np.lib.stride_tricks.as_strided(base, shape, strides, writeable=True)


def alike(got, expected, tolerance: float = 1e-5) -> None:
    """Lists and dicts of the same form; numbers within the tolerance, all else equal."""
    if isinstance(expected, list):
        assert isinstance(got, list) and len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            alike(one, other, tolerance)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            alike(got[name], value, tolerance)
    elif isinstance(expected, (float, np.floating)):
        assert type(got) is float and abs(got - float(expected)) <= tolerance
    else:
        assert got == expected
