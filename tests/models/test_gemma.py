"""models/gemma.py, gemma2.py and gemma3.py against transformers' own numbers; what each of their options does."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import check_golden, inputs, write

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.gemma2 import Gemma2Config
from transformer_fast.models.gemma3 import Gemma3TextConfig

pytest.importorskip("safetensors")


@pytest.mark.parametrize("case", ["gemma", "gemma2", "gemma3", "gemma3_both_ways"])
def test_golden_numbers_of_transformers(isa, tmp_path, case):
    check_golden(tmp_path, case)


def test_which_layers_have_a_window():
    small = {"num_hidden_layers": 7, "sliding_window": 5}
    gemma2 = Gemma2Config(**small)
    assert [gemma2.block(i).window for i in range(7)] == [5, None, 5, None, 5, None, 5]
    gemma3 = Gemma3TextConfig(**small)
    assert [gemma3.block(i).window for i in range(7)] == [5, 5, 5, 5, 5, None, 5]
    assert [gemma3.block(i).rotation for i in (4, 5)] == ["sliding", "full"]
    every_other = Gemma3TextConfig(**small, sliding_window_pattern=2)
    assert [every_other.block(i).window for i in range(3)] == [5, None, 5]


def test_older_spellings_of_rotations(tmp_path):
    """rope_theta, rope_local_base_freq and rope_scaling instead of rope_parameters."""
    scaling = {"rope_type": "linear", "factor": 8.0}
    changes = {"rope_parameters": ..., "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": scaling}
    old = load_model(write(tmp_path / "old", "gemma3", changes))
    new = load_model(write(tmp_path / "new", "gemma3"))
    ids = inputs(40)[0]
    assert np.array_equal(old(ids).logits, new(ids).logits)


def test_the_first_folders_call_the_tanh_formula_gelu(tmp_path):
    old = load_model(write(tmp_path / "old", "gemma", {"hidden_act": "gelu", "hidden_activation": None}))
    ids = inputs(40)[0]
    assert np.array_equal(old(ids).logits, load_model(write(tmp_path / "new", "gemma"))(ids).logits)


@pytest.mark.parametrize(
    "changes",
    [
        {"final_logit_softcapping": None},
        {"attn_logit_softcapping": 0.5},
        {"query_pre_attn_scalar": 64},
        {"sliding_window": 2},
        {"hidden_activation": "relu"},
    ],
    ids=str,
)
def test_every_option_has_an_effect(tmp_path, changes):
    ids = inputs(40)[0]
    changed = load_model(write(tmp_path / "a", "gemma2", changes))
    assert np.abs(changed(ids).logits - load_model(write(tmp_path / "b", "gemma2"))(ids).logits).max() > 1e-3


@pytest.mark.parametrize(
    "case, changes, text",
    [
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        (
            "gemma3",
            {"use_bidirectional_attention": True, "sliding_window": None},
            "use_bidirectional_attention is true, sliding_window None",
        ),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma3", {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters is .*an object each"),
        ("gemma2", {"hidden_activation": "mish"}, "is 'mish'; supported"),
        ("gemma2", {"layer_types": ["full_attention"] * 3}, "layer_types is"),
        ("gemma2", {"attention_bias": True}, r"missing tensors: 'layers\.0\.self_attn\.q_proj\.bias'"),
        ("gemma3", {"model_type": "gemma3"}, "model_type is 'gemma3'; supported"),
    ],
    ids=str,
)
def test_refusals(tmp_path, case, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, case, changes))
