"""functional.Decoder next to the same ops one by one: options that no family of these tests has, and bad input.

Bits of whole models, with caches: tests/models/test_decoder_stack.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_same_bits, normal

from transformer_fast import functional as F
from transformer_fast import set_num_threads
from transformer_fast.nn.cache import StackCache

H, HKV, D, HIDDEN, INNER, T = 4, 2, 6, 10, 14, 9


def draw(shape, seed):
    return normal(*shape, seed=seed)


CU = np.array([0, 4, 4, 9])


def weight(n, k, seed):
    return F.pack_weight(draw((n, k), seed) / 3)


def layer(seed, **changes):
    qkv = (weight((H + 2 * HKV) * D, HIDDEN, seed),)
    fields = {"out": weight(HIDDEN, H * D, seed + 1), "up": weight(INNER, HIDDEN, seed + 2)}
    fields |= {"down": weight(HIDDEN, INNER, seed + 3), "scale": 0.4, "rotation": -1}
    return F.DecoderLayer(**({"qkv": qkv} | fields | changes))


def norm(n, seed, bias=True):
    return 1 + draw((n,), seed) / 5, draw((n,), seed + 1) / 5 if bias else None


def one_by_one(x, layers, rotations, options):
    """The layers by the ops of functional."""
    layer_norm, eps = options.get("layer_norm", False), options["eps"]
    scale = np.float32(options.get("residual_scale", 1))

    def normed(a, pair):
        if pair is None:
            return a
        return F.layer_norm(a, *pair, eps) if layer_norm else F.rms_norm(a, pair[0], eps)

    def added(a, result, pair):
        result = normed(result, pair)
        return a + (result if scale == 1 else result * scale)

    for one in layers:
        read = normed(x, one.attention_norm)
        projected = np.concatenate([F.linear(read, part) for part in one.qkv], axis=1)
        if one.qkv_bias is not None:
            projected = projected + one.qkv_bias
        query, key, value = np.split(projected, [H * D, (H + HKV) * D], axis=1)
        if one.whole_qk_norm:
            query, key = normed(query, one.q_norm), normed(key, one.k_norm)
        heads = [a.reshape(T, -1, D) for a in (query, key, value)]
        if not one.whole_qk_norm:
            heads[:2] = normed(heads[0], one.q_norm), normed(heads[1], one.k_norm)
        if one.rotation >= 0:
            turn = {"interleaved": options.get("interleaved", False)}
            for i in range(2):
                turned = F.rotary_embedding(heads[i].swapaxes(0, 1), *rotations[one.rotation], **turn)
                heads[i] = turned.swapaxes(0, 1)
        window = (-1 if one.window is None else one.window - 1, -1 if one.ahead is None else one.ahead)
        how = {"scale": one.scale, "softcap": one.softcap, "window": window, "sinks": one.sinks}
        context = F.varlen_attention(*heads, CU, CU, enable_gqa=True, **how).reshape(T, H * D)
        attended = F.linear(context, one.out, one.out_bias)
        after = added(x, attended, one.attention_out_norm)
        if options.get("parallel"):
            read = normed(x, one.feed_forward_norm) if one.feed_forward_norm is not None else read
        else:
            read = normed(after, one.feed_forward_norm)
        if one.gate is None:
            inner = F.linear(read, one.up, one.up_bias, activation=options["activation"])
        else:
            up = F.linear(read, one.up, one.up_bias)
            inner = F.linear(read, one.gate, one.gate_bias, activation=options["activation"], multiply=up)
        x = added(after, F.linear(inner, one.down, one.down_bias), one.feed_forward_out_norm)
    return x


ROTATION = (np.cos(draw((T, 2), 90)), np.sin(draw((T, 2), 90)))


def kinds():
    """Packed under the level in force."""
    return {
        "plain": ({}, {}),
        "neox": (
            {"attention_norm": norm(HIDDEN, 1), "feed_forward_norm": norm(HIDDEN, 3), "rotation": 0},
            {"layer_norm": True, "parallel": True},
        ),
        "gptj": (
            {"attention_norm": norm(HIDDEN, 1), "rotation": 0, "up_bias": draw((INNER,), 5)},
            {"layer_norm": True, "parallel": True, "interleaved": True},
        ),
        "olmo2": (
            {
                "attention_out_norm": norm(HIDDEN, 1, bias=False),
                "feed_forward_out_norm": norm(HIDDEN, 2, bias=False),
                "q_norm": norm(H * D, 3, bias=False),
                "k_norm": norm(HKV * D, 4, bias=False),
                "whole_qk_norm": True,
            },
            {},
        ),
        "granite": ({"attention_norm": norm(HIDDEN, 1, bias=False)}, {"residual_scale": 0.22}),
        "gpt_oss": ({"sinks": draw((H,), 6), "window": 2, "qkv_bias": draw(((H + 2 * HKV) * D,), 7)}, {}),
        "three weights": (
            {"qkv": (weight(H * D, HIDDEN, 1), weight(HKV * D, HIDDEN, 2), weight(HKV * D, HIDDEN, 3)), "rotation": 0},
            {},
        ),
        "both ways": ({"ahead": None}, {}),
        "windows on both sides": ({"window": 2, "ahead": 1, "sinks": draw((H,), 6)}, {}),
        "gated": ({"gate": weight(INNER, HIDDEN, 8), "gate_bias": draw((INNER,), 9), "softcap": 3.0}, {}),
    }


def decoder(kind, **changes):
    own, options = kinds()[kind]
    options = {"activation": "silu", "eps": 1e-5} | options | changes
    layers = [layer(20, **own), layer(30, **own)]
    return layers, options, F.Decoder(layers, H, HKV, D, **options)


@pytest.mark.parametrize("kind", kinds())
def test_options(kind, isa, threads):
    set_num_threads(threads)
    layers, options, whole = decoder(kind)
    x = draw((T, HIDDEN), 40)
    expected = one_by_one(x, layers, [ROTATION], options)
    got = whole(x.copy(), CU, [ROTATION])
    # One by one a sum of two arrays rounds once more than a product's epilogue.
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["neox", "gptj", "olmo2", "gated"])
def test_rows_that_are_asked_for(kind):
    layers, options, whole = decoder(kind, final_norm=norm(HIDDEN, 50))
    x, rows = draw((T, HIDDEN), 40), np.array([0, 3, 8])
    everything = whole(x.copy(), CU, [ROTATION])
    assert_same_bits(whole(x.copy(), CU, [ROTATION], rows=rows), everything[rows])
    head, bias = weight(5, HIDDEN, 60), draw((5,), 61)
    logits = whole(x.copy(), CU, [ROTATION], rows=rows, head=head, head_bias=bias)
    assert_same_bits(logits, F.linear(everything[rows], head, bias))
    assert whole(x.copy(), CU, [ROTATION], rows=np.array([], np.int64)).shape == (0, HIDDEN)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("kind", ["gpt_oss", "gated"])
def test_stepwise_tokens_have_the_bits_of_steps(kind, dtype, isa, threads):
    """Over a past that attention cuts into parts, by how many keys a token sees; int8 with its scales."""
    set_num_threads(threads)
    *_, whole = decoder(kind)
    x, past, places = draw((T, HIDDEN), 40), 700, ((0, 0), (0, 1))

    def filled():
        cache = StackCache(2, 1, HKV, D, 800, dtype=dtype)
        cache.reserve(past)
        for i in range(2):
            cache.write(i, draw((1, HKV, past, D), 70 + i), draw((1, HKV, past, D), 80 + i))
        cache.advance(past)
        return cache

    def run(cache, x, **options):
        cache.reserve(len(x))
        arrays = cache.engine_arrays(np.array([len(x)]))
        result = whole(x.copy(), [0, len(x)], caches=(arrays,), places=places, fresh=False, **options)
        cache.advance(len(x))
        return result

    one, other = filled(), filled()
    steps = np.concatenate([run(one, x[i : i + 1]) for i in range(T)])
    assert_same_bits(run(other, x, stepwise=True), steps)
    for layer_number in range(2):
        for a, b in zip(one.seen(layer_number), other.seen(layer_number), strict=True):
            np.testing.assert_array_equal(a, b)
    together = run(filled(), x)
    np.testing.assert_allclose(together, steps, rtol=0, atol=1e-5 * np.abs(steps).max())


def test_bad_input():
    layers, _, whole = decoder("neox")
    x = np.zeros((T, HIDDEN), np.float32)
    for call, error, text in (
        (lambda: F.Decoder([], H, HKV, D), ValueError, "layers is empty"),
        (lambda: F.Decoder(layers, H, 3, D), ValueError, "kv_heads=3"),
        (lambda: F.Decoder(layers, H, HKV, 5), ValueError, r"layers\[0\].qkv has shapes"),
        (lambda: F.Decoder(layers, H, HKV, D, "swish"), ValueError, "activation is 'swish'"),
        (lambda: F.Decoder([layer(1, window=0)], H, HKV, D), ValueError, "window is 0"),
        (lambda: F.Decoder([layer(1, ahead=-1)], H, HKV, D), ValueError, "ahead is -1"),
        (
            lambda: F.Decoder([layer(1, ahead=None)], H, HKV, D)(x, [0, T], caches=(), places=((0, 0),)),
            ValueError,
            "a layer looks ahead; needed: None, or layers with ahead=0",
        ),
        (lambda: F.Decoder([layer(1, sinks=np.zeros(3, np.float32))], H, HKV, D), ValueError, "sinks has shape"),
        (lambda: whole(x, CU), ValueError, "rotations has 0 entries; needed: 1"),
        (lambda: whole(x[:, :4], CU, [ROTATION]), ValueError, "last axis must have length 10"),
        (lambda: whole(x[::2], CU, [ROTATION]), ValueError, "dense and writable"),
        (lambda: whole(x, [0, 4], [ROTATION]), ValueError, "cu_seqlens reaches"),
        (lambda: whole(x, CU, [(ROTATION[0][:3], ROTATION[1])]), ValueError, "cosines of shape"),
        (lambda: whole(x, CU, [ROTATION], rows=np.array([3, 3])), ValueError, "rising numbers"),
        (lambda: whole(x, CU, [ROTATION], rows=np.array([9])), ValueError, "rising numbers"),
        (lambda: whole(x, CU, [ROTATION], head=layers[0].down), ValueError, r"head has shape"),
        (lambda: whole(x, CU, [ROTATION], head_bias=x[0]), ValueError, "without head"),
        (lambda: whole(x, CU, [ROTATION], stepwise=True), ValueError, "stepwise is True with 3 rows; needed: one with"),
    ):
        with pytest.raises(error, match=text):
            call()


def test_weights_of_another_level():
    """Panels of avx2 and of portable have other widths: nothing is computed."""
    if not {"portable", "avx2"} <= set(F.available_isas()):
        pytest.skip("needed: two levels whose layouts differ")
    own = F.get_isa()
    try:
        F.set_isa("avx2")
        _, _, whole = decoder("plain")
        F.set_isa("portable")
        with pytest.raises(RuntimeError, match="packed in a layout"):
            whole(np.zeros((T, HIDDEN), np.float32), CU)
    finally:
        F.set_isa(own)
