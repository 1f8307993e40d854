"""models/common/seq2seq.py and seq2seq_blocks.py: decoding step by step, beams that share a source, packing."""

from __future__ import annotations

import numpy as np
import pytest
from seq2seq_golden import GOLDEN, TOLERANCE, inputs

from transformer_fast import functional, load_model, reference

pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module", params=["t5_gated", "bart"])
def model(request):
    return load_model(GOLDEN / request.param)


@pytest.fixture
def source():
    given = inputs("bart")
    return given["input_ids"], given["attention_mask"]


def test_steps_give_what_the_whole_gives(model, source):
    ids = inputs("bart")["decoder_input_ids"]
    whole = model(*source, ids).logits
    logits, state = model.start(*source, capacity=3, decoder_input_ids=ids[:, :2])
    np.testing.assert_allclose(logits, whole[:, 1], atol=TOLERANCE, rtol=0)
    for i in range(2, ids.shape[1]):  # beyond the capacity, too
        logits = model.step(ids[:, i], state)
        np.testing.assert_allclose(logits, whole[:, i], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("index", [[0, 0, 1, 1, 2, 2], [2, 0, 1, 2], [1], [0, 0, 0]], ids=str)
def test_rows_that_share_a_source(model, source, index):
    """After a reorder each row goes on as if it had been alone, in any order of rows."""
    ids = inputs("bart")["decoder_input_ids"]
    _, state = model.start(*source, capacity=8, decoder_input_ids=ids[:, :3])
    keys = [pair[0] for pair in state._cross]
    state.reorder(np.array(index))
    new = np.arange(3, 3 + len(index))
    together = model.step(new, state)
    second = model.step(new + 1, state)
    assert all(a is b for a, (b, _) in zip(keys, state._cross, strict=True))  # never copied
    for row, b in enumerate(index):
        _, state = model.start(
            source[0][b : b + 1], source[1][b : b + 1], capacity=8, decoder_input_ids=ids[b : b + 1, :3]
        )
        np.testing.assert_allclose(together[row], model.step(new[row : row + 1], state)[0], atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(second[row], model.step(new[row : row + 1] + 1, state)[0], atol=TOLERANCE, rtol=0)


def test_beams_do_not_depend_on_threads(model, source):
    before = functional.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            functional.set_num_threads(threads)
            results.append(model.generate(*source, max_new_tokens=6, num_beams=4))
    finally:
        functional.set_num_threads(before)
    assert np.array_equal(*results)


def test_sampling_is_repeatable(model, source):
    rows = [model.generate(*source, max_new_tokens=6, do_sample=True, seed=3) for _ in range(2)]
    assert np.array_equal(*rows)


def test_stream(model, source):
    whole = model.generate(*source, max_new_tokens=6)
    assert np.array_equal(np.stack(list(model.stream(*source, max_new_tokens=6)), axis=1), whole[:, 1:])


def test_generate_from_encoder_outputs(model, source):
    ids, mask = source
    expected = model.generate(ids, mask, max_new_tokens=6)
    encoded = model.encode(ids, mask)
    assert np.array_equal(
        model.generate(None, mask, encoder_outputs=encoded, max_new_tokens=6, decoder_input_ids=expected[:, :1]),
        expected,
    )


def test_ragged_ids_and_masks_are_named(model, source):
    ids, mask = source
    ragged = [[1, 1], [1]]
    for name, arguments in {
        "input_ids": (ragged, None, ids),
        "attention_mask": (ids, ragged, ids),
        "decoder_input_ids": (ids, mask, ragged),
        "decoder_attention_mask": (ids, mask, ids, ragged),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name} has rows of different lengths \(row 0 has 2, row 1 has 1\)"):
            model(*arguments)
    for name, arguments in {"input_ids": (ragged,), "attention_mask": (ids, ragged)}.items():
        with pytest.raises(ValueError, match=f"^{name} has rows of different lengths"):
            model.generate(*arguments, max_new_tokens=3)
    with pytest.raises(ValueError, match="^decoder_attention_mask has shape"):
        model(ids, mask, ids, mask[:, 1:])


def test_start_refuses_other_rows(model, source):
    with pytest.raises(ValueError, match="decoder_input_ids has 2 rows"):
        model.start(*source, capacity=8, decoder_input_ids=np.zeros((2, 1), np.int64))


def stored(state):
    """All keys and values of a state: the decoder's, then the encoder's."""
    own = [array for cache in state.caches for array in (cache.keys, cache.values)]
    return own + [part for parts in state._cross for part, _ in parts]


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0), ("bfloat16", 0.03), ("float16", 0.004), ("int8", 0.05)])
def test_narrow_caches_give_nearly_the_same_logits(model, source, dtype, bound):
    """As a share of the logits' spread; measured: bfloat16 up to 0.017, float16 0.0017, int8 0.026."""
    ids = inputs("bart")["decoder_input_ids"]
    states = []
    for kept in (None, dtype):
        logits, state = model.start(*source, capacity=3, decoder_input_ids=ids[:, :2], kv_cache_dtype=kept)
        rows = [logits]
        for i in range(2, ids.shape[1]):
            state.reorder(np.array([0, 2, 1]))
            rows.append(model.step(ids[:, i], state))
        states.append((np.stack(rows), state))
    (exact, wide), (narrow, state) = states
    assert {array.dtype.name for array in stored(state)} == {dtype}
    error = np.abs(narrow - exact).max() / exact.std()
    assert error <= bound and (error > 0) == (dtype != "float32")
    # What is kept is what a cache of that type makes of the exact keys and values of the encoder.
    for parts, others in zip(wide._cross, state._cross, strict=True):
        for (part, _), (other, scale) in zip(parts, others, strict=True):
            if dtype == "int8":
                integers, scales = reference.cache_integers(part)
                assert np.array_equal(other, integers) and np.array_equal(scale, scales)
            else:
                assert scale is None and np.array_equal(other, part.astype(other.dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_narrow_caches_in_every_search(model, source, dtype):
    options = {"max_new_tokens": 6, "kv_cache_dtype": dtype}
    for search in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 1, "num_return_sequences": 2}):
        result = model.generate(*source, **options, **search)
        assert len(result) == (2 if "do_sample" in search else 1) * len(source[0])
        if dtype == "float32":
            assert np.array_equal(result, model.generate(*source, max_new_tokens=6, **search))
    ids, mask = source
    alone = model.generate(ids[:1], mask[:1], **options)[0]
    together = model.generate(ids, mask, **options)[0]
    n = min(len(alone), len(together))
    assert np.array_equal(alone[:n], together[:n])


def test_a_cache_of_no_known_type(model, source):
    with pytest.raises(ValueError, match="kv_cache_dtype is 'int4'; needed: float32, bfloat16, float16 or int8"):
        model.generate(*source, kv_cache_dtype="int4")
