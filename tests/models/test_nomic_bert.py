"""models/nomic_bert.py against transformers' own numbers (golden); folders of the first code, its checks, its heads."""

from __future__ import annotations

import json

import encoder_checks as checks
import numpy as np
import pytest
from model_folders import write_json

from transformer_fast import load_model, nn
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.nomic_bert import (
    NomicBertConfig,
    NomicBertForMaskedLM,
    NomicBertForSequenceClassification,
    NomicBertForTokenClassification,
    NomicBertModel,
)

save_file = pytest.importorskip("safetensors.numpy").save_file
pytest.importorskip("ml_dtypes")

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 12,
}
# What nomic-embed-text-v1.5 has in its config.json, with other sizes.
FIRST = {
    "activation_function": "swiglu",
    "architectures": ["NomicBertModel"],
    "attn_pdrop": 0.0,
    "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    "bos_token_id": None,
    "causal": False,
    "dense_seq_output": True,
    "embd_pdrop": 0.0,
    "eos_token_id": None,
    "fused_bias_fc": True,
    "fused_dropout_add_ln": True,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
    "max_trained_positions": 8,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 12,
    "n_head": 2,
    "n_inner": 17,
    "n_layer": 2,
    "n_positions": 16,
    "pad_vocab_size_multiple": 64,
    "parallel_block": False,
    "parallel_block_tied_norm": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.0,
    "rotary_emb_base": 50,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.0,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "torch_dtype": "float32",
    "transformers_version": "4.37.2",
    "type_vocab_size": 2,
    "use_cache": True,
    "use_flash_attn": True,
    "use_rms_norm": False,
    "use_xentropy": True,
    "vocab_size": 30,
}
IDS, MASK = np.array([[7, 8, 9, 10], [11, 12, 13, 0]]), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture(scope="module")
def model():
    return load_model(checks.GOLDEN / "nomic-bert", head=False)


def test_golden_numbers_of_transformers(isa):
    checks.golden("nomic-bert", "NomicBertForMaskedLM")


def test_what_is_saved_is_loaded(tmp_path):
    checks.round_trip("nomic-bert", tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input(model):
    checks.bad_input(model, types=True)
    with pytest.raises(IndexError, match="token_type_ids holds 2"):
        model([[7, 8]], token_type_ids=[[0, 2]])
    assert model(np.full((1, 17), 7))[0].shape[1] == 17  # rotary positions have no end


def test_broken_tensors(tmp_path):
    checks.broken_tensors("nomic-bert", tmp_path, "nomic_bert.encoder.layers.1.attn.Wqkv.weight")


def golden_tensors():
    return {name: tensor.array() for name, tensor in Checkpoint.open(checks.GOLDEN / "nomic-bert").tensors.items()}


def folder_of(path, config, tensors):
    path.mkdir()
    write_json(path / "config.json", config)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path / "model.safetensors")
    return path


def golden_config():
    return json.loads((checks.GOLDEN / "nomic-bert" / "config.json").read_text(encoding="utf-8"))


def test_the_first_code_says_the_same_in_other_words(tmp_path):
    """config.json with GPT-2's names, tensors after "bert.", and a head without biases."""
    tensors = golden_tensors()
    expected = load_model(checks.GOLDEN / "nomic-bert", head=False)(IDS, MASK).last_hidden_state
    body = {n.removeprefix("nomic_bert."): a for n, a in tensors.items() if n.startswith("nomic_bert.")}
    # The fixture's epsilon is transformers' default.
    first = FIRST | {"layer_norm_epsilon": 1e-12}
    got = load_model(folder_of(tmp_path / "a", first, body))
    assert type(got) is NomicBertModel and got.pooler is None
    assert got.config == NomicBertConfig(30, 12, 17, 2, 2, max_position_embeddings=16, rope_theta=50)
    np.testing.assert_array_equal(got(IDS, MASK).last_hidden_state, expected)

    biases = ("cls.predictions.bias", "cls.predictions.transform.dense.bias")
    without = {n.replace("nomic_bert.", "bert."): array for n, array in tensors.items() if n not in biases}
    path = folder_of(tmp_path / "b", first | {"architectures": ["NomicBertForPreTraining"]}, without)
    head = load_model(path)
    assert type(head) is NomicBertForMaskedLM and head.transform.dense.bias is head.decoder.bias is None
    zeros = {name: tensors[name] * 0 for name in biases}
    folder = folder_of(tmp_path / "c", golden_config(), tensors | zeros)
    np.testing.assert_array_equal(head(IDS, MASK).logits, load_model(folder)(IDS, MASK).logits)
    head.save_pretrained(tmp_path / "d")
    np.testing.assert_array_equal(load_model(tmp_path / "d")(IDS, MASK).logits, head(IDS, MASK).logits)


def test_transformers_own_names(tmp_path):
    """What it writes with save_original_format=False: three tensors for query, key and value."""
    renamed, parts = {}, {"mlp.fc11": "mlp.up_proj", "mlp.fc12": "mlp.gate_proj", "mlp.fc2": "mlp.down_proj"}
    parts |= {"norm1": "post_attention_layernorm", "norm2": "post_mlp_layernorm", "attn.out_proj": "self_attn.o_proj"}
    parts |= {"encoder.layers": "layers", "emb_ln": "embeddings.LayerNorm"}
    for name, array in golden_tensors().items():
        for first, own in parts.items():
            name = name.replace(first, own)
        if name.endswith("Wqkv.weight"):
            for part, rows in zip("qkv", np.split(array, 3), strict=True):
                renamed[name.replace("attn.Wqkv", f"self_attn.{part}_proj")] = rows
        else:
            renamed[name] = array
    model = load_model(folder_of(tmp_path / "a", golden_config(), renamed))
    expected = load_model(checks.GOLDEN / "nomic-bert")(IDS, MASK).logits
    np.testing.assert_array_equal(model(IDS, MASK).logits, expected)
    model.save_pretrained(tmp_path / "b")
    np.testing.assert_array_equal(load_model(tmp_path / "b")(IDS, MASK).logits, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "mish"},
        {"activation_function": "gelu"},
        {"head_dim": 5},
        {"rope_parameters": {"rope_type": "unheard of"}},
        {"qkv_proj_bias": True},
        {"mlp_fc1_bias": True},
        {"mlp_fc2_bias": True},
        {"prenorm": True},
        {"parallel_block": True},
        {"causal": True},
        {"moe_every_n_layers": 2},
        {"rotary_emb_fraction": 0.5},
        {"rotary_emb_interleaved": True},
        {"rotary_emb_scale_base": 512},
        {"rotary_scaling_factor": 2.0},
        {"use_rms_norm": True},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(NomicBertModel, CONFIG, changes)


def test_a_field_that_is_not_known():
    with pytest.raises(CheckpointError, match="does not know 'num_experts'"):
        NomicBertModel.read_config(CONFIG | {"num_experts": 8}, "config.json")


def test_both_names_of_a_field():
    """transformers' counts: it does not read the other."""
    read = NomicBertModel.read_config(CONFIG | {"n_embd": 99, "activation_function": "geglu"}, "config.json")
    assert (read.hidden_size, read.hidden_act) == (12, "gelu")
    assert NomicBertModel.read_config(
        CONFIG | {"hidden_act": "relu", "activation_function": "geglu"}, ""
    ).hidden_act == ("relu")


@pytest.mark.parametrize(
    "made",
    [NomicBertModel, NomicBertForMaskedLM, NomicBertForSequenceClassification, NomicBertForTokenClassification],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


def test_int8_is_smoothed(model):
    """Each product behind a norm; the error is that of integers of 8 bits."""
    nn.manual_seed(0)
    wide = NomicBertModel(NomicBertConfig(**CONFIG | {"hidden_size": 96, "intermediate_size": 64}))
    expected = wide(IDS, MASK).last_hidden_state
    assert wide.layers[1].Wqkv._norm_before[0] is wide.layers[0].feed_forward_norm
    assert wide.layers[0].Wqkv._norm_before[0] is wide.embeddings_norm
    wide.set_weight_format("int8")
    got = wide(IDS, MASK).last_hidden_state
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
