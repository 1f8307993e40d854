"""No op reads or writes outside the extent of its operands.

Each operand in turn is placed between two pages that may not be touched, once ending at the second and once starting
right after the first, its own pages read-only unless it is `out`. A wrong access ends the process, so the calls run in
a child: this file, run as a script with the name of a family and an ISA. It prints what it is about to do, and the last
line before a crash is the finding.
"""

from __future__ import annotations

import os
import sys

import ml_dtypes
import numpy as np
import pytest
from subprocesses import HELPERS, PACKAGE_PARENT, run_python

FAMILIES = {
    "attention": ("scaled_dot_product_attention",),
    "varlen": ("varlen_attention",),
    "linear": ("linear", "linear_max"),
    "softmax": ("softmax",),
    "activation": ("gelu", "relu", "silu", "tanh", "quick_gelu"),
    "recurrent": ("lstm", "gru"),
    "embedding": ("embedding",),
    "matmul": ("matmul",),
    "max_sim": ("max_sim",),
    "norms": ("layer_norm", "rms_norm"),
    "rotary": ("rotary_embedding",),
    "heads": ("split_heads", "concat_heads"),
}
SIZES = ((21, 19), (5, 1), (16, 16), (64, 64), (13, 47), (97, 33))  # rows, width


NARROW = "weights in narrow formats"
SEARCH = "search"
_NARROW_FORMATS = ("int8", "int8_a16", "bfloat16", "float16", "bfloat16_a32", "int4", "int4_a8")


@pytest.mark.parametrize("family", FAMILIES)
def test_guard_pages(family, isa):
    run_between_pages(family, isa)


@pytest.mark.formats("int8")
@pytest.mark.formats("bfloat16")
def test_guard_pages_of_narrow_weights(isa):
    run_between_pages(NARROW, isa)


def test_guard_pages_of_searches(isa):
    run_between_pages(SEARCH, isa)


def run_between_pages(family, isa):
    path = os.pathsep.join((str(PACKAGE_PARENT), str(HELPERS)))
    child = run_python(__file__, family, isa, check=False, PYTHONPATH=path)
    last = child.stdout.strip().splitlines()[-1:]
    assert child.returncode == 0, f"exit {child.returncode} at {last}\n{child.stderr[-3000:]}"
    assert last[0].startswith("done "), last
    assert int(last[0].split()[1]) >= 24


def tight(array, guarded, end, writable=False):
    """`array` with gaps between its rows, its first and last element at the very ends of guarded memory."""
    if array.ndim < 2 or array.size == 0:
        return guarded(array, end, writable)
    strides, step = [], 1
    for n in reversed(array.shape):
        strides.insert(0, step * array.itemsize)
        step = step * n + 3
    extent = sum((n - 1) * stride for n, stride in zip(array.shape, strides, strict=True)) // array.itemsize + 1
    flat = np.zeros(extent, array.dtype)
    np.lib.stride_tricks.as_strided(flat, array.shape, strides)[...] = array
    base = guarded(flat, end, writable)
    return np.lib.stride_tricks.as_strided(base, array.shape, strides, writeable=writable)


def heads_inside(array, guarded, end, writable=False):
    """A four-dimensional operand that lies in memory as (B, L, H, D)."""
    if array.ndim != 4:
        return guarded(array, end, writable)
    return guarded(np.ascontiguousarray(array.swapaxes(1, 2)), end, writable).swapaxes(1, 2)


def plain(array, guarded, end, writable=False):
    return guarded(array, end, writable)


def attention_with_options(rows, width):
    """The operands that belong to options, and a cache of which only the keys within kv_lengths exist."""
    from support import Call, normal

    from transformer_fast import reference

    B, H, Lq, Lk = 2, 2, rows, rows + 9
    q, k, v = (normal(B, H, length, width, seed=s) for s, length in enumerate((Lq, Lk, Lk)))
    extras = dict(
        causal_offset=np.array([3, -1]),
        kv_lengths=np.array([Lk - 2, Lk]),
        relative_bias=normal(H, Lq + Lk - 1),
        alibi_slopes=np.array([0.01, 0.02], np.float32),
        sinks=normal(H),
        attn_mask=normal(B, 1, 1, Lk),
    )
    name, operands = "scaled_dot_product_attention", dict(query=q, key=k, value=v)
    yield Call("options", name, {**operands, **extras}, dict(is_causal=True))
    yield Call("mask-row", name, dict(**operands, attn_mask=normal(Lk) > 0))
    yield Call("mask-matrix", name, dict(**operands, attn_mask=normal(Lq, Lk) > -1))
    yield Call("mask-column", name, dict(**operands, attn_mask=normal(B, 1, Lq, 1)))
    for length in (1, 2, 3):
        yield Call(f"decode-{length}", name, dict(query=q[:, :, :length].copy(), key=k, value=v))
    for half in (np.float16, ml_dtypes.bfloat16):
        halves = dict(key=k.astype(half), value=v.astype(half))
        yield Call(f"{half.__name__}-keys", name, dict(query=q, **halves), dict(is_causal=True))
        yield Call(f"{half.__name__}-keys-decode", name, dict(query=q[:, :, :1].copy(), **halves))
    (key, key_scale), (value, value_scale) = reference.cache_integers(k), reference.cache_integers(v)
    narrow = dict(key=key, value=value, key_scale=key_scale, value_scale=value_scale)
    for length in (1, 2, rows):
        yield Call(f"int8-keys-{length}", name, dict(query=q[:, :, :length].copy(), **narrow))


def keys_that_do_not_exist(guarded):
    """kv_lengths, causal and window say which keys exist: the others' memory may not even be mapped."""
    from support import assert_close, normal

    from transformer_fast import functional, reference

    for Lq, existing, announced, D in ((1, 5, 40, 16), (1, 300, 2000, 64), (9, 33, 64, 16), (70, 100, 257, 32)):
        q, k, v = normal(1, 1, Lq, D), normal(1, 1, existing, D, seed=1), normal(1, 1, existing, D, seed=2)
        k, v = guarded(k, True), guarded(v, True)
        shape = (1, 1, announced, D)
        long_k, long_v = (np.lib.stride_tricks.as_strided(x, shape, x.strides, writeable=False) for x in (k, v))
        expected = reference.scaled_dot_product_attention(q.astype(float), k.astype(float), v.astype(float))
        print("existing keys:", Lq, existing, announced, flush=True)
        got = functional.scaled_dot_product_attention(q, long_k, long_v, kv_lengths=np.array([existing]))
        assert_close(got, expected)
        offset = existing - Lq
        options = dict(is_causal=True, causal_offset=offset)
        print("existing keys, causal:", Lq, existing, announced, flush=True)
        got = functional.scaled_dot_product_attention(q, long_k, long_v, **options)
        assert_close(
            got, reference.scaled_dot_product_attention(q.astype(float), k.astype(float), v.astype(float), **options)
        )


def lists_of_ranges(guarded):
    """The arrays of a mask's KeyRanges, and all operands beside them."""
    from support import assert_close, normal

    from transformer_fast import functional, reference

    for Lq, Lk, D in ((1, 700, 16), (5, 33, 21), (50, 300, 32), (130, 131, 64)):
        q, k, v = normal(2, 2, Lq, D), normal(2, 2, Lk, D, seed=1), normal(2, 2, Lk, D, seed=2)
        for share in (0, 0.02, 0.5, 1):
            seen = np.random.default_rng(Lq).random((2, 2, Lq, Lk)) < share
            seen[..., -1] = share > 0
            expected = reference.scaled_dot_product_attention(*(x.astype(float) for x in (q, k, v)), seen)
            plain = functional.KeyRanges.from_dense(seen)
            for end in (False, True):
                print("lists of ranges:", Lq, Lk, D, share, f"{end=}", flush=True)
                arrays = (guarded(x, end) for x in (plain.list_of_row, plain.begin, plain.bounds))
                mask = functional.KeyRanges.trusted(*arrays, Lk)
                got = functional.scaled_dot_product_attention(*(guarded(x, end) for x in (q, k, v)), mask=mask)
                assert_close(got, expected)


def keys_in_pages(guarded):
    """The pool, the table and the scales, all at once: the used keys end at the end of the pool, or begin at its
    beginning, and entries of the table behind a sequence's keys are numbers of no page."""
    from support import assert_same_bits, normal

    from transformer_fast import functional, reference

    huge = 2**31 - 1
    lengths, shared = np.array([79, 80, 33]), np.array([32, 32, 0])
    table = np.array([[4, 1, 2, 3, 0, huge], [4, 1, 5, 8, 6, -huge], [7, 9, 10, huge, huge, huge]], np.int32)
    for Lq, D, Dv in ((1, 16, 5), (3, 33, 64), (40, 21, 19)):
        query = normal(3, 4, Lq, D)
        key, value = normal(11, 2, 16, D, seed=1), normal(11, 2, 16, Dv, seed=2)
        (key8, key_scale), (value8, value_scale) = reference.cache_integers(key), reference.cache_integers(value)
        halves = {"key_pages": key.astype(np.float16), "value_pages": value.astype(np.float16)}
        integers = {"key_pages": key8, "value_pages": value8, "key_scale": key_scale, "value_scale": value_scale}
        for pool in ({"key_pages": key, "value_pages": value}, halves, integers):
            for of_all in (0, shared):
                given = {"kv_lengths": lengths, "is_causal": True, "enable_gqa": True, "shared_keys": of_all}
                expected = functional.paged_attention(query, **pool, page_table=table, **given)
                for place in (plain, tight, heads_inside):
                    for end in (False, True):
                        print("pages:", Lq, D, Dv, list(pool), bool(of_all is shared), place.__name__, f"{end=}")
                        sys.stdout.flush()
                        placed = {name: place(x, guarded, end) for name, x in pool.items()}
                        out = place(np.full(expected.shape, np.nan, np.float32), guarded, end, writable=True)
                        functional.paged_attention(
                            place(query, guarded, end), **placed, page_table=guarded(table, end), out=out, **given
                        )
                        assert_same_bits(np.array(out), expected)


def sparse_weights(guarded):
    """The array of weights of visible pairs, and what says where each of them lies."""
    from support import assert_same_bits, normal

    from transformer_fast import functional
    from transformer_fast.functional.attention import _Call

    for Lq, Lk in ((1, 70), (5, 33), (50, 300), (130, 131)):
        q, k = normal(2, 2, Lq, 16), normal(2, 2, Lk, 16, seed=1)
        for share in (0.02, 0.5, 1):
            mask = functional.KeyRanges.from_dense(np.random.default_rng(Lq).random((2, 2, Lq, Lk)) < share)
            for name in ("sparse", "sparse-mean"):
                options = {"mask": mask, "is_causal": True, "causal_offset": 20, "return_weights": name}
                expected = _Call(q, k, k, **options)
                expected.run(1)
                for end in (False, True):
                    print("sparse weights:", Lq, Lk, share, name, f"{end=}", flush=True)
                    call = _Call(q, k, k, **options)
                    lists, before, row_begin = call.sparse_weights
                    call.weights = guarded(call.weights, end, writable=True)
                    lists = (*(guarded(x, end) for x in lists[:3]), lists[3])
                    call.sparse_weights = lists, guarded(before, end), guarded(row_begin, end)
                    call.run(1)
                    assert_same_bits(call.weights, expected.weights)


def distance_scores(guarded):
    """Both terms of distance and the buckets, forwards and backwards, with query, key and value."""
    from cases import distance_scores
    from support import assert_same_bits, normal

    from transformer_fast.functional.attention import _Call

    for Lq, Lk, most in ((1, 70, 3), (16, 16, 40), (50, 300, 11), (130, 131, 60)):
        q, k = normal(2, 2, Lq, 16), normal(2, 2, Lk, 16, seed=1)
        options = {"distance_scores": distance_scores("both", (2, 2, Lq), (2, 2, Lk), Lq, Lk, seed=2, most=most)}
        expected = _Call(q, k, k, **options)
        expected.run(1)
        for end in (False, True):
            print("terms of distance:", Lq, Lk, most, f"{end=}", flush=True)
            call = _Call(*(guarded(x, end) for x in (q, k, k)), **options)
            call.distance_scores = tuple(guarded(x, end) for x in call.distance_scores)
            call.run(1)
            assert_same_bits(call.out, expected.out)


def recurrent_outputs(place, guarded, end):
    """The rows that lstm and gru write, and those they read: `out` and x between the pages at once."""
    from support import assert_close, every_call

    for rows, width in SIZES:
        for call in every_call(rows, width):
            if call.op in FAMILIES["recurrent"]:
                print("recurrent out:", call.name, rows, width, place.__name__, f"{end=}", flush=True)
                expected = call.expected()
                out = place(np.full(expected[0].shape, np.nan, np.float32), guarded, end, writable=True)
                results = call.run(out=out, x=place(call.operands["x"], guarded, end))
                assert results[0] is out
                assert_close((np.array(out), *results[1:]), expected)


def narrow_weights(place, guarded, end) -> int:
    """Their own memory (int8, bfloat16, float32) when they are packed, and all operands of a product. How many."""
    from blocks import random_blocks
    from support import assert_same_bits, normal

    from transformer_fast import functional
    from transformer_fast.functional.block_weight import BLOCK_FORMATS

    for rows, width in SIZES:
        x, weight, bias, other = normal(rows, width), normal(rows + 8, width), normal(rows + 8), normal(rows, rows + 8)
        floats, halves = {"weight": weight}, {"weight": weight.astype(ml_dtypes.bfloat16)}
        integers = {"weight": np.clip(weight * 40, -128, 127).astype(np.int8), "scale": np.abs(bias)}
        for format in _NARROW_FORMATS:
            for given in (floats, integers if format.startswith("int8") else halves):
                print(NARROW, format, rows, width, place.__name__, f"{end=}", flush=True)
                expected = functional.linear(x, functional.pack_weight(**given, format=format), bias, residual=other)
                packed = functional.pack_weight(
                    **{name: place(array, guarded, end) for name, array in given.items()}, format=format
                )
                options = {"residual": place(other, guarded, end)}
                out = place(np.full(expected.shape, np.nan, np.float32), guarded, end, writable=True)
                functional.linear(place(x, guarded, end), packed, guarded(bias, end), out=out, **options)
                assert_same_bits(np.array(out), expected)
    for i, format in enumerate(BLOCK_FORMATS):
        rows = SIZES[i % len(SIZES)][0]
        print(NARROW, format, rows, place.__name__, f"{end=}", flush=True)
        x, weight = normal(rows, 512), random_blocks(format, rows + 8, 512)
        blocks = functional.BlockWeight(format, place(weight.blocks, guarded, end))
        for kept in ("blocks", "blocks_a8"):
            out = place(np.full((rows, rows + 8), np.nan, np.float32), guarded, end, writable=True)
            functional.linear(place(x, guarded, end), functional.pack_weight(blocks, format=kept), out=out)
            assert_same_bits(np.array(out), functional.linear(x, functional.pack_weight(weight, format=kept)))
    return len(SIZES) * 2 * len(_NARROW_FORMATS) + 2 * len(BLOCK_FORMATS)


def searches(place, guarded, end) -> int:
    """Queries and a corpus of every type, bits among them. How many."""
    from support import assert_same_bits, normal

    from transformer_fast import functional

    types = (np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8)
    for rows, width in SIZES:
        for dtype in types:
            print(SEARCH, rows, width, dtype.__name__, place.__name__, f"{end=}", flush=True)
            query, corpus = normal(rows, width), np.abs(normal(rows + 90, width, seed=1) * 40).astype(dtype)
            expected = functional.top_k_products(query, corpus, 3, cosine=True)
            found = functional.top_k_products(place(query, guarded, end), place(corpus, guarded, end), 3, cosine=True)
            assert_same_bits(found[0], expected[0])
            assert np.array_equal(found[1], expected[1])
        bits = place(corpus, guarded, end)
        found, expected = (functional.top_k_hamming(x, x, 2) for x in (bits, corpus))
        assert np.array_equal(found, expected)
    return len(SIZES) * (len(types) + 1)


def child(family: str, isa: str):
    from support import assert_close, every_call, guarded

    from transformer_fast import functional

    functional.set_isa(isa)
    count = 0
    for rows, width in SIZES:
        calls = [call for call in every_call(rows, width) if call.op in FAMILIES.get(family, ())]
        if family == "attention":
            calls += attention_with_options(rows, width)
        for call in calls:
            expected = call.expected()
            for place in (plain, tight, heads_inside):
                for end in (False, True):
                    for operand, array in call.operands.items():
                        print(family, call.name, rows, width, operand, place.__name__, f"{end=}", flush=True)
                        assert_close(call.run(**{operand: place(array, guarded, end)}), expected)
                        count += 1
                    if call.takes_out:
                        print(family, call.name, rows, width, "out", place.__name__, f"{end=}", flush=True)
                        out = place(np.full(expected.shape, np.nan, np.float32), guarded, end, writable=True)
                        assert_close(np.array(call.run(out=out)), expected)
                        count += 1
    if family == "attention":
        keys_that_do_not_exist(guarded)
        lists_of_ranges(guarded)
        distance_scores(guarded)
        sparse_weights(guarded)
        keys_in_pages(guarded)
    if family == NARROW:
        for place in (plain, tight):
            for end in (False, True):
                count += narrow_weights(place, guarded, end)
    if family == SEARCH:
        for place in (plain, tight):
            for end in (False, True):
                count += searches(place, guarded, end)
    if family == "recurrent":
        for place in (plain, tight):
            for end in (False, True):
                recurrent_outputs(place, guarded, end)
    print("done", count)


if __name__ == "__main__":
    child(*sys.argv[1:])
