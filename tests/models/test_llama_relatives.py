"""models/olmo2.py, smollm3.py and granite.py against transformers' own numbers; what each of their options does."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import check_golden, inputs, tensors, write

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.smollm3 import SmolLM3Config

pytest.importorskip("safetensors")


@pytest.mark.parametrize("case", ["olmo2", "smollm3", "granite"])
def test_golden_numbers_of_transformers(isa, tmp_path, case):
    check_golden(tmp_path, case)


@pytest.mark.parametrize("case", ["olmo2", "smollm3", "granite"])
def test_saved_as_it_was_read(tmp_path, case):
    from safetensors.numpy import load_file

    load_model(write(tmp_path / "a", case)).save_pretrained(tmp_path / "b")
    written = load_file(tmp_path / "b" / "model.safetensors")
    assert all(np.array_equal(written.pop(name), array) for name, array in tensors(case).items()) and not written


def test_which_layers_of_smollm3_are_rotated_and_have_a_window():
    small = {"num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}

    def layers(**fields):
        config = SmolLM3Config(**small, **fields)
        return [(config.block(i).rotation, config.block(i).window) for i in range(4)]

    on, off = ("all", None), (None, None)
    assert layers() == [on, on, on, off]
    assert layers(no_rope_layer_interval=2, sliding_window=5) == [on, off, on, off]
    assert layers(no_rope_layers=[0, 1, 1, 0, 1]) == [off, on, on, off]
    windowed = layers(no_rope_layer_interval=2, sliding_window=5, use_sliding_window=True)
    assert windowed == [on, (None, 5), on, (None, 5)]
    types = ["sliding_attention", *["full_attention"] * 3]
    assert layers(layer_types=types, sliding_window=5) == [("all", 5), on, on, off]


@pytest.mark.parametrize(
    "case, changes",
    [
        ("granite", {"embedding_multiplier": 2.0}),
        ("granite", {"logits_scaling": 2.0}),
        ("granite", {"residual_multiplier": 1.0}),
        ("granite", {"attention_multiplier": 1.0}),
        ("smollm3", {"no_rope_layers": [0, 0]}),
        ("smollm3", {"layer_types": ["full_attention"] * 2}),
        ("olmo2", {"hidden_act": "relu"}),
        ("olmo2", {"rms_norm_eps": 0.5}),
    ],
    ids=str,
)
def test_every_option_has_an_effect(tmp_path, case, changes):
    ids = inputs(40)[0]
    changed = load_model(write(tmp_path / "a", case, {"no_rope_layers": ..., "layer_types": ...} | changes))
    assert np.abs(changed(ids).logits - load_model(write(tmp_path / "b", case))(ids).logits).max() > 1e-3


@pytest.mark.parametrize(
    "case, changes, text",
    [
        ("granite", {"logits_scaling": 0.0}, "logits_scaling is 0"),
        ("granite", {"residual_multiplier": "1"}, "residual_multiplier is '1'"),
        ("granite", {"attention_bias": True}, r"missing tensors: 'layers\.0\.self_attn\.q_proj\.bias'"),
        ("olmo2", {"clip_qkv": 8.0}, "does not know 'clip_qkv'"),
        ("olmo2", {"num_key_value_heads": 4}, r"needed by config\.json: \(16,"),
        ("smollm3", {"no_rope_layers": [1]}, r"no_rope_layers is \[1\]; needed: a number for each of the 2 layers"),
        ("smollm3", {"no_rope_layers": [1, -1]}, "no_rope_layers is"),
        ("smollm3", {"sliding_window": None, "layer_types": ["sliding_attention"] * 2}, "sliding_window is None"),
        ("smollm3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ],
    ids=str,
)
def test_refusals(tmp_path, case, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, case, changes))
