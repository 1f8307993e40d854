"""models/gpt_neox.py, starcoder2.py, phi.py and gptj.py against transformers' own numbers; names, options, limits."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import check_golden, config, inputs, tensors, write

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.common.layer_norm_blocks import PlainOptions
from transformer_fast.models.gpt_neox import GPTNeoXModel

pytest.importorskip("safetensors")

CASES = ["gpt_neox", "gpt_neox_in_turn", "starcoder2", "phi", "gptj"]


@pytest.mark.parametrize("case", CASES)
def test_golden_numbers_of_transformers(isa, tmp_path, case):
    check_golden(tmp_path, case)


@pytest.mark.parametrize("case", CASES)
def test_saved_as_it_was_read(tmp_path, case):
    from safetensors.numpy import load_file

    model = load_model(write(tmp_path / "a", case))
    model.save_pretrained(tmp_path / "b")
    written = load_file(tmp_path / "b" / "model.safetensors")
    written = {name.replace("embed_out.", "lm_head."): array for name, array in written.items()}
    assert all(np.array_equal(written.pop(name), array) for name, array in tensors(case).items()) and not written
    assert np.array_equal(load_model(tmp_path / "b")(inputs(40)[0]).logits, model(inputs(40)[0]).logits)


def test_names_and_constants_of_the_first_files_of_gpt_neox(tmp_path):
    expected = load_model(write(tmp_path / "new", "gpt_neox"))
    head = tensors("gpt_neox")["lm_head.weight"]
    old = {"embed_out.weight": head, "lm_head.weight": None}
    for i in range(2):
        layer = f"gpt_neox.layers.{i}.attention"
        old |= {f"{layer}.bias": np.ones((1, 1, 64, 64), np.float32), f"{layer}.masked_bias": np.float32([-1e9])}
        old[f"{layer}.rotary_emb.inv_freq"] = np.ones(1, np.float32)
    folder = write(tmp_path / "old", "gpt_neox", {"rope_theta": 3.0, "partial_rotary_factor": 0.9}, replaced=old)
    ids = inputs(40)[0]
    assert np.array_equal(load_model(folder)(ids).logits, expected(ids).logits)
    assert type(load_model(folder, head=False)) is GPTNeoXModel


def test_older_spellings_of_rotations(tmp_path):
    changes = {"rope_parameters": ..., "rotary_pct": 0.75, "rotary_emb_base": 10000}
    old = load_model(write(tmp_path / "old", "gpt_neox_in_turn", changes))
    new = load_model(write(tmp_path / "new", "gpt_neox_in_turn"))
    assert config("gpt_neox_in_turn")["rope_parameters"]["partial_rotary_factor"] == 0.75
    assert np.array_equal(old(inputs(40)[0]).logits, new(inputs(40)[0]).logits)


@pytest.mark.parametrize(
    "case, changes",
    [
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt_neox", {"rope_parameters": ..., "rotary_pct": 0.5}),
        ("gpt_neox_in_turn", {"rope_parameters": ..., "rotary_pct": 0.75, "rotary_emb_base": 9.0}),
        ("gpt_neox", {"hidden_act": "relu"}),
        ("gpt_neox", {"layer_norm_eps": 0.5}),
        ("starcoder2", {"sliding_window": None}),
        ("starcoder2", {"norm_epsilon": 0.5}),
        ("phi", {"rope_parameters": ..., "partial_rotary_factor": 1.0}),
        ("gptj", {"rotary_dim": 8}),
        ("gptj", {"layer_norm_epsilon": 0.5}),
    ],
    ids=str,
)
def test_every_option_has_an_effect(tmp_path, case, changes):
    ids = inputs(40)[0]
    changed = load_model(write(tmp_path / "a", case, changes))
    assert np.abs(changed(ids).logits - load_model(write(tmp_path / "b", case))(ids).logits).max() > 1e-3


@pytest.mark.parametrize(
    "case, changes, text",
    [
        (
            "gpt_neox",
            {"rope_parameters": ..., "rotary_pct": 0.4},
            "rotary_pct is 0.4; needed: a share of the 8 columns",
        ),
        ("gpt_neox", {"rope_scaling": {"type": "yarn", "x": 1}}, "rope_scaling and rope_parameters: .*'x'"),
        ("gpt_neox", {"attention_bias": False}, r"does not use: .*attention\.dense\.bias"),
        ("gpt_neox", {"num_key_value_heads": 2}, "does not know 'num_key_value_heads'"),
        ("gpt_neox", {"num_attention_heads": 3}, "num_attention_heads is 3"),
        ("gpt_neox", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ("starcoder2", {"mlp_type": "gated"}, "mlp_type is 'gated'"),
        ("starcoder2", {"use_bias": False}, r"does not use: .*mlp\.c_fc\.bias"),
        ("starcoder2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("starcoder2", {"num_key_value_heads": None}, "num_key_value_heads is None"),
        ("phi", {"qk_layernorm": False}, r"does not use: .*self_attn\.k_layernorm"),
        ("phi", {"rope_parameters": ..., "partial_rotary_factor": 0.1}, "partial_rotary_factor is 0.1"),
        ("gptj", {"rotary_dim": 5}, "rotary_dim is 5; needed: an even number up to the 8 columns"),
        ("gptj", {"rotary_dim": 10}, "rotary_dim is 10"),
        ("gptj", {"n_head": 3}, "n_head is 3"),
        ("gptj", {"rope_parameters": {"rope_type": "default"}}, "does not know 'rope_parameters'"),
    ],
    ids=str,
)
def test_refusals(tmp_path, case, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, case, changes))


def test_no_more_positions_than_there_are(tmp_path):
    model = load_model(write(tmp_path, "gptj"))
    with pytest.raises(ValueError, match="rows may grow to 28 tokens; needed: at most n_positions=24"):
        model.generate(inputs(40)[0], max_new_tokens=20)
    with pytest.raises(IndexError, match="needed: 0 to 23"):
        model(np.zeros((1, 25), int))


def test_one_norm_for_both_needs_them_side_by_side():
    with pytest.raises(ValueError, match="shared_norm is True and parallel is False"):
        PlainOptions(eps=1e-5, shared_norm=True)
