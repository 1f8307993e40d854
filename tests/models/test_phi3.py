"""models/phi3.py against transformers' own numbers; fused projections, partly rotated heads, short and long factors."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import PHI3, check_golden, inputs, tensors, write

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.phi3 import Phi3Config

pytest.importorskip("safetensors")

LONG = PHI3["rope_parameters"]


def test_golden_numbers_of_transformers(isa, tmp_path):
    """Texts grow beyond 12 tokens: then they run once more, with the long factors."""
    check_golden(tmp_path, "phi3")


def test_a_generation_that_becomes_long_is_that_of_the_long_factors(tmp_path):
    model = load_model(write(tmp_path, "phi3"))
    ids = inputs(40)[0]
    result = model.generate(ids, max_new_tokens=12, eos_token_id=None)
    scores = model(result).logits
    # Each token is the best of the text before it, run as a whole: with the short factors up to 12 tokens.
    for length in range(8, 20):
        assert np.array_equal(model(result[:, :length]).logits[:, -1].argmax(axis=1), result[:, length]), length
    assert np.abs(scores[:, 10] - model(result[:, :11]).logits[:, -1]).max() > 1e-3


def test_saved_as_it_was_read(tmp_path):
    model = load_model(write(tmp_path / "a", "phi3"))
    model.save_pretrained(tmp_path / "b")
    from safetensors.numpy import load_file

    written = load_file(tmp_path / "b" / "model.safetensors")
    assert written.keys() == tensors("phi3").keys()
    assert all(np.array_equal(written[name], array) for name, array in tensors("phi3").items())


def test_older_spellings_of_rotations(tmp_path):
    """rope_scaling with the type "su", and the share of columns beside it or in it."""
    expected = load_model(write(tmp_path / "new", "phi3"))(inputs(40)[0]).logits
    scaling = {name: value for name, value in LONG.items() if name != "rope_type"}
    for type_field in ("type", "rope_type"):
        changes = {"rope_parameters": ..., "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
        changes["rope_scaling"] = scaling | {type_field: "su"}
        old = load_model(write(tmp_path / type_field, "phi3", changes))
        assert np.array_equal(old(inputs(40)[0]).logits, expected)
    inside = {"rope_parameters": LONG | {"partial_rotary_factor": 0.5}, "partial_rotary_factor": ...}
    assert np.array_equal(load_model(write(tmp_path / "in", "phi3", inside))(inputs(40)[0]).logits, expected)


def test_what_is_rotated():
    config = Phi3Config(hidden_size=64, num_attention_heads=4, partial_rotary_factor=0.75)
    assert config.rotation("all").dim == 12 and config.short_texts is None


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters has the type 'linear'; needed"),
        ({"rope_parameters": {**LONG, "short_factor": [1.0]}}, "has 1 values in short_factor; needed: dim / 2 = 2"),
        ({"rope_parameters": {**LONG, "partial_rotary_factor": 0.4}}, "a share of the 8 columns of a head"),
        ({"rope_parameters": {**LONG, "partial_rotary_factor": 1.5}}, "partial_rotary_factor is 1.5"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"full_attn_mod": 2}, "full_attn_mod is 2"),
        ({"num_key_value_heads": 4}, r"qkv_proj\.weight' has shape \(64, 32\)"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings is 0"),
        ({"embd_pdrop": 0.1, "sliding_window": -1}, "sliding_window is -1"),
    ],
    ids=str,
)
def test_refusals(tmp_path, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, "phi3", changes))
