"""A decoder's layers in one call of the engine, next to the same layers one by one in Python: the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import CASES, GENERATING, inputs, write
from support import assert_same_bits

from transformer_fast import load_model, set_num_threads
from transformer_fast.models.common.decoder import Decoder

pytest.importorskip("safetensors")


@pytest.fixture
def layer_by_layer(monkeypatch):
    """A context in which the engine knows no layers."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(Decoder, "last_hidden", _in_python)
            return function(*args, **options)

    return call


def _in_python(self, ids, positions, batch, rows=None, head=None):
    hidden = self.run(ids, positions, batch)
    hidden = self.final_norm(hidden if rows is None else hidden[rows])
    return hidden if head is None else head(hidden)


def chat(model):
    """A prompt with padding, steps, reordered rows, more steps; then several tokens after a past, and one more."""
    ids, _, left = inputs(model.config.vocab_size)
    mask = np.ones(ids.shape, np.int64)
    mask[2, :2] = 0
    logits, state = model.start(ids, left, capacity=20)
    results = [logits]
    for i in range(6):  # beyond the windows
        results.append(model.step(ids[:, i], state).copy())
    state.reorder(np.array([2, 0, 0, 1]))
    results.append(model.step(ids[0, :4], state).copy())
    output = model(ids, mask, use_cache=True)
    results.append(output.logits)
    tokens = np.ones((3, 3), np.int64)
    tokens[0, 1:], tokens[1] = 0, 0  # one row gets a token, one none, one three
    output = model(ids[:, :3], tokens, past_key_values=output.past_key_values)
    results.append(output.logits)
    return results


@pytest.mark.parametrize("case", GENERATING)
def test_same_bits_as_layer_by_layer(tmp_path, case, isa, threads, layer_by_layer):
    model = load_model(write(tmp_path, case))
    body = model.body
    assert (body.engine_layers() is None) == ("experts" in str(vars(body.config)))
    set_num_threads(threads)
    for got, expected in zip(chat(model), layer_by_layer(chat, model), strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("case", sorted(set(CASES) - set(GENERATING)))
def test_same_bits_in_both_directions(tmp_path, case, isa, threads, layer_by_layer):
    model = load_model(write(tmp_path, case))
    ids, mask, _ = inputs(model.config.vocab_size)
    set_num_threads(threads)
    assert_same_bits(model(ids, mask).logits, layer_by_layer(lambda model: model(ids, mask).logits, model))


def chat_with_cache(model, dtype):
    """Steps of rows of unequal lengths, several tokens at once, and several as so many steps."""
    ids, _, left = inputs(model.config.vocab_size)
    _, state = model.start(ids, left, capacity=20, kv_cache_dtype=dtype)
    results = [model.step(ids[:, i], state) for i in range(6)]
    results.append(model.extend(ids[:, :3], state))
    _, state = model.start(ids[:1], capacity=20, kv_cache_dtype=dtype)
    results.append(model.extend(ids[:1, :5], state, every=True))
    return [*results, model.extend(ids[1:2, :4], state, every=True)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("case", ["gpt2", "llama", "gemma2"])
def test_types_of_caches(tmp_path, case, dtype, isa, layer_by_layer):
    model = load_model(write(tmp_path, case))
    for got, expected in zip(chat_with_cache(model, dtype), layer_by_layer(chat_with_cache, model, dtype), strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8", "int8_a16"])
@pytest.mark.parametrize("case", ["gpt2", "qwen3", "gemma2"])
def test_formats(tmp_path, case, compute_type, layer_by_layer):
    model = load_model(write(tmp_path, case), compute_type=compute_type)
    for got, expected in zip(chat(model), layer_by_layer(chat, model), strict=True):
        assert_same_bits(got, expected)


def test_a_parameter_that_is_replaced_counts(tmp_path):
    model = load_model(write(tmp_path, "llama"))
    ids, _, _ = inputs(40)
    before = model(ids).logits
    layer = model.body.layers[1]
    layer.down_proj.weight = layer.down_proj.weight * np.float32(2)
    after = model(ids).logits
    assert not np.array_equal(after, before)
    layer.down_proj.weight = layer.down_proj.weight / np.float32(2)
    assert_same_bits(model(ids).logits, before)


def test_a_call_that_fails_leaves_the_past_as_it_was(tmp_path, monkeypatch):
    from transformer_fast import _core

    model = load_model(write(tmp_path, "llama"))
    ids, _, left = inputs(40)
    _, state = model.start(ids, left, capacity=20)
    expected = model.step(ids[:, 0], model.start(ids, left, capacity=20)[1])

    def fails(*_):
        raise MemoryError("no workspace")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(_core, "decoder", fails)
        model.step(ids[:, 0], state)
    assert_same_bits(model.step(ids[:, 0], state), expected)
