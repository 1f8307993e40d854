"""models/llama.py and the block that it shares (decoder_blocks.py) against transformers' own numbers; refusals."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import check_golden, inputs, tensors, write

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.llama import LlamaConfig, LlamaForCausalLM, LlamaModel

pytest.importorskip("safetensors")


@pytest.mark.parametrize("case", ["llama", "llama_biases_llama3", "llama_yarn"])
def test_golden_numbers_of_transformers(isa, tmp_path, case):
    check_golden(tmp_path, case)


def test_older_spellings(tmp_path):
    """rope_theta and rope_scaling instead of rope_parameters, and the constant that old files carry."""
    scaling = {"type": "linear", "factor": 2.0}
    new = load_model(write(tmp_path / "new", "llama", {"rope_parameters": {**scaling, "rope_theta": 5000.0}}))
    changes = {"rope_parameters": ..., "rope_theta": 5000.0, "rope_scaling": scaling}
    constant = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
    old = load_model(write(tmp_path / "old", "llama", changes, constant))
    ids = inputs(40)[0]
    assert np.array_equal(new(ids).logits, old(ids).logits)
    plain = load_model(write(tmp_path / "plain", "llama"))
    assert np.abs(plain(ids).logits - old(ids).logits).max() > 1e-3


def test_saved_as_it_was_read(tmp_path):
    model = load_model(write(tmp_path / "a", "llama"))
    model.save_pretrained(tmp_path / "b")
    ids = inputs(40)[0]
    assert np.array_equal(model(ids).logits, load_model(tmp_path / "b")(ids).logits)
    from safetensors.numpy import load_file

    assert load_file(tmp_path / "b" / "model.safetensors").keys() == tensors("llama").keys()


def test_a_fresh_model_has_random_weights():
    config = LlamaConfig(30, 8, 12, 1, 4, num_key_value_heads=2)
    assert np.isfinite(LlamaModel(config)([[1, 2]]).last_hidden_state).all()
    assert LlamaForCausalLM(config).generate([[1, 2]], max_new_tokens=3, eos_token_id=None).shape == (1, 5)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; supported"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; needed: a divisor of num_attention_heads=4"),
        ({"head_dim": None, "hidden_size": 18}, "num_attention_heads is 4; needed without head_dim"),
        ({"head_dim": 5}, "head_dim is 5; needed: an even number"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, but .* holds 2 layers"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "'spiral'"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"attention_bias": True}, r"missing tensors: 'layers\.0\.self_attn\.q_proj\.bias'"),
        ({"mlp_bias": True}, r"missing tensors: 'layers\.0\.mlp\.gate_proj\.bias'"),
    ],
    ids=str,
)
def test_refusals(tmp_path, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, "llama", changes))


def test_tensors_that_do_not_fit(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not use: 'model\.layers\.0\.self_attn\.q_proj\.bias'"):
        load_model(
            write(tmp_path, "llama", replaced={"model.layers.0.self_attn.q_proj.bias": np.zeros(16, np.float32)})
        )
