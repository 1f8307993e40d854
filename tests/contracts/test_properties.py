"""Shapes, strides, options, ISA and threads drawn together: what no list of cases thinks of (hypothesis)."""

from __future__ import annotations

import contextlib
import os

import numpy as np
from cases import ACTIVATIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import TOLERANCE, assert_close, widened

from transformer_fast import functional, reference

# The same examples in every CI run, new ones on a developer's machine.
drawn = settings(
    max_examples=300,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextlib.contextmanager
def running_on(isa, threads):
    before = functional.get_isa(), functional.get_num_threads()
    functional.set_isa(isa)
    functional.set_num_threads(threads)
    try:
        yield
    finally:
        functional.set_isa(before[0])
        functional.set_num_threads(before[1])


machines = st.builds(
    running_on, st.deferred(lambda: st.sampled_from(functional.available_isas())), st.sampled_from([1, 2, 3])
)
lengths = st.one_of(st.integers(0, 20), st.integers(0, 140), st.sampled_from([1, 6, 12, 16, 64, 96, 97, 128]))
widths = st.one_of(st.integers(1, 20), st.integers(1, 140), st.sampled_from([8, 16, 32, 64, 128]))


class Arguments:
    """What was drawn for a call; its repr tells shapes and strides, not thousands of numbers."""

    def __init__(self, arrays, options, extra=None):
        self.arrays, self.options, self.extra = arrays, options, extra

    def __repr__(self):
        def told(value):
            if isinstance(value, np.ndarray) and value.size > 8:
                return f"<{value.dtype} {value.shape} strides {value.strides}>"
            return repr(value)

        named = [told(array) for array in self.arrays] + [f"{k}={told(v)}" for k, v in self.options.items()]
        return f"call({', '.join(named)}, extra={self.extra!r})"


@st.composite
def placed(draw, shape, seed, dtype=np.float32):
    """N(0,1) data of a shape, in memory with any order of axes, gaps, directions and repeated slices."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2])) for _ in shape]
    repeated = [draw(st.integers(0, 15)) == 0 for _ in shape]
    offset = draw(st.integers(0, 3))
    extents = [offset + max(n * abs(step), 1) for n, step in zip(shape, steps, strict=True)]
    base = np.zeros([extents[axis] for axis in order], dtype).transpose(np.argsort(order))
    inside = [slice(offset, offset + n * abs(step), abs(step)) for n, step in zip(shape, steps, strict=True)]
    view = base[(..., *inside)][(..., *(slice(None, None, -1 if step < 0 else 1) for step in steps))]
    assert view.shape == tuple(shape)
    view[...] = np.random.default_rng(seed).standard_normal(shape)
    for axis, repeat in enumerate(repeated):
        if repeat and view.shape[axis]:
            view = np.broadcast_to(view.take([0], axis=axis), view.shape)
    return view


@st.composite
def masks(draw, full, seed):
    """A mask that broadcasts to `full`: any axes dropped or of length one, bool or float, with dead rows."""
    dims = draw(st.integers(0 if min(full) else 4, 4))
    shape = [n if draw(st.booleans()) else 1 for n in full[len(full) - dims :]]
    mask = draw(placed(shape, seed))
    if draw(st.booleans()):
        return mask > draw(st.sampled_from([-1.0, 0.0, 2.0]))
    return np.where(mask > draw(st.sampled_from([0.5, 9.0])), np.float32(-np.inf), mask)


@st.composite
def attention_calls(draw):
    B, Hkv, group = draw(st.integers(0, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    Lq, Lk, D, Dv = draw(lengths), draw(lengths), draw(widths), draw(widths)
    H = Hkv * group
    seed = draw(st.integers(0, 2**20))
    arrays = [
        draw(placed(shape, seed + i)) for i, shape in enumerate(((B, H, Lq, D), (B, Hkv, Lk, D), (B, Hkv, Lk, Dv)))
    ]
    options = dict(enable_gqa=group > 1)
    rng = np.random.default_rng(seed)
    if draw(st.booleans()):
        options["attn_mask"] = draw(masks((B, H, Lq, Lk), seed))
    options["is_causal"] = draw(st.booleans())
    options["causal_offset"] = draw(
        st.one_of(
            st.just(0),
            st.just("bottom_right"),
            st.integers(-Lq - 2, Lk + 2),
            st.builds(lambda: rng.integers(-Lq - 2, Lk + 3, B)),
        )
    )
    side = st.one_of(st.just(-1), st.integers(0, 5), st.integers(0, Lk + 2))
    if draw(st.booleans()):
        options["window"] = (draw(side), draw(side))
    if draw(st.booleans()):
        options["kv_lengths"] = rng.integers(0, Lk + 1, B)
    if draw(st.integers(0, 3)) == 0:
        options["softcap"] = draw(st.sampled_from([0.5, 3.0, 30.0]))
    if draw(st.integers(0, 3)) == 0:
        options["relative_bias"] = draw(placed((draw(st.sampled_from([1, H])), max(Lq + Lk - 1, 0)), seed))
    if draw(st.integers(0, 3)) == 0:
        options["alibi_slopes"] = rng.random(H).astype(np.float32) / 8
    if draw(st.integers(0, 3)) == 0:
        options["sinks"] = rng.standard_normal(H).astype(np.float32)
    if draw(st.integers(0, 3)) == 0:
        options["scale"] = draw(st.sampled_from([0.0, 0.05, -0.2]))
    options["return_lse"] = draw(st.booleans())
    options["return_weights"] = draw(st.sampled_from([False, False, "mean", "heads"]))
    return Arguments(arrays, options)


def rounding(arrays, options):
    """What float32 may cost: a score is rounded in proportion to its terms, and exp makes that a relative error."""
    repeated = arrays[0].strides[-1] == arrays[1].strides[-1] == 0
    q, k, v = (np.abs(array.astype(np.float64)) for array in arrays)
    if 0 in q.shape or 0 in v.shape:
        return TOLERANCE  # sinks still have an lse
    terms = np.repeat(k, q.shape[1] // k.shape[1], axis=1).swapaxes(-1, -2)
    largest = (q @ terms).max() * abs(options.get("scale", q.shape[-1] ** -0.5))
    if "alibi_slopes" in options:
        offset = options["causal_offset"]
        reach = max(q.shape[2], k.shape[2]) + (np.abs(offset).max() if not isinstance(offset, str) else 0)
        largest += options["alibi_slopes"].max() * 2 * reach
    tolerance = 3e-7 * (8 + largest) * max(1, v.max())
    if repeated:  # equal terms, whose rounding errors do not cancel: (D - 1) u, u = 2**-24
        tolerance += (q.shape[-1] - 1) * 2**-24 * largest * max(1, v.max())
    return tolerance


@drawn
@given(machine=machines, call=attention_calls())
def test_attention(machine, call):
    arrays, options = call.arrays, call.options
    expected = reference.scaled_dot_product_attention(*widened(arrays), **widened(options))
    with machine:
        got = functional.scaled_dot_product_attention(*arrays, **options)
    assert_close(got, expected, rounding(arrays, options))


@st.composite
def linear_calls(draw):
    M, N, K = draw(lengths), draw(lengths), draw(lengths)
    seed = draw(st.integers(0, 2**20))
    lead = draw(st.sampled_from([(M,), (M, 1), (1, M), (2, M // 2), ()]))
    x, weight = draw(placed((*lead, K), seed)), draw(placed((N, K), seed + 1))
    options = dict(activation=draw(st.sampled_from(ACTIVATIONS)))
    if draw(st.booleans()):
        options["bias"] = draw(placed((N,), seed + 2))
    if draw(st.booleans()):
        options["residual"] = draw(placed((*lead, N), seed + 3))
    weight = weight if draw(st.booleans()) else (weight / max(K, 1) ** 0.5).astype(np.float32)
    return Arguments([x, weight], options, dict(pack=draw(st.booleans())))


@drawn
@given(machine=machines, call=linear_calls())
def test_linear(machine, call):
    (x, weight), options = call.arrays, call.options
    expected = reference.linear(*widened([x, weight]), **widened(options))
    with machine:
        got = functional.linear(x, functional.pack_weight(weight) if call.extra["pack"] else weight, **options)
    # Repeated data adds up one product K times, and all roundings go the same way: Higham's bound, K u sum |x w|.
    terms = np.abs(x.astype(np.float64)) @ np.abs(weight.astype(np.float64)).T
    assert_close(got, expected, 6e-8 * (x.shape[-1] + 16) * (2 + terms.max(initial=0)))
