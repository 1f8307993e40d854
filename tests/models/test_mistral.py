"""models/mistral.py against transformers' own numbers; its window."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import check_golden, inputs, write

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError

pytest.importorskip("safetensors")


@pytest.mark.parametrize("case", ["mistral", "mistral_both_ways"])
def test_golden_numbers_of_transformers(isa, tmp_path, case):
    check_golden(tmp_path, case)


def test_the_window_is_what_config_says(tmp_path):
    ids = inputs(40)[0]
    logits = {}
    for window in (4, 8, None):
        logits[window] = load_model(write(tmp_path / str(window), "mistral", {"sliding_window": window}))(ids).logits
    assert np.array_equal(logits[8], logits[None])  # eight tokens are no more than the window
    assert np.allclose(logits[4][:, :4], logits[None][:, :4], atol=1e-5)
    assert np.abs(logits[4][:, 7] - logits[None][:, 7]).max() > 1e-3


def test_long_generation_keeps_a_window_of_the_past(tmp_path):
    """Far beyond the window: the same tokens as without a cache, and caches that stay small."""
    model = load_model(write(tmp_path, "mistral"))
    ids, _, left = inputs(40)
    _, state = model.start(ids, left, capacity=60)
    assert all(cache.capacity <= 8 for cache in state.caches)
    result = model.generate(ids, left, max_new_tokens=40, eos_token_id=None)
    mask = np.concatenate([left, np.ones((3, 40), int)], axis=1)
    scores = model(result, mask).logits
    assert np.array_equal(scores[:, 7:-1].argmax(axis=2), result[:, 8:])


def test_padding_between_tokens_has_no_meaning_for_a_window(tmp_path):
    model = load_model(write(tmp_path, "mistral"))
    mask = np.ones((3, 8), int)
    mask[1, 4] = 0
    with pytest.raises(ValueError, match="padding between tokens in row 1"):
        model(inputs(40)[0], mask)
    past = model(inputs(40)[0][:, :5], mask[:, :5], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="padding between tokens in row 1"):
        model(inputs(40)[0][:, 5:], past_key_values=past)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": "4"}, "sliding_window is '4'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
    ids=str,
)
def test_refusals(tmp_path, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, "mistral", changes))
