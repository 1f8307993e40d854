"""models/gte.py against transformers' own numbers (golden); folders of the first code, the checks, the heads.

transformers does not stretch positions as that code does ("ntk"): the frequencies are compared with its formula.
"""

from __future__ import annotations

import json

import encoder_checks as checks
import numpy as np
import pytest
from model_folders import write_json

from transformer_fast import load_model
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.models.gte import (
    GteConfig,
    GteForMaskedLM,
    GteForSequenceClassification,
    GteForTokenClassification,
    GteModel,
)

pytest.importorskip("ml_dtypes")
save_file = pytest.importorskip("safetensors.numpy").save_file

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 12,
}
IDS, MASK = np.array([[7, 8, 9, 10], [11, 12, 13, 0]]), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture(scope="module")
def model():
    return load_model(checks.GOLDEN / "gte", head=False)


def test_golden_numbers_of_transformers(isa):
    checks.golden("gte", "GteForSequenceClassification")


def test_what_is_saved_is_loaded(tmp_path):
    checks.round_trip("gte", tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input(model):
    checks.bad_input(model, types=True)
    plain = model([[7, 8]])[0]
    assert np.array_equal(model([[7, 8]], token_type_ids=[[0, 5]])[0], plain)  # there is no table of types
    typed = GteModel(GteConfig(**CONFIG))
    with pytest.raises(IndexError, match="token_type_ids holds 1"):
        typed([[7, 8]], token_type_ids=[[0, 1]])


def test_broken_tensors(tmp_path):
    checks.broken_tensors("gte", tmp_path, "gte.encoder.layer.1.attention.qkv_proj.weight")


@pytest.mark.parametrize(
    "changes",
    [
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"hidden_act": "mish"},
        {"head_dim": 3},
        {"position_embedding_type": "absolute"},
        {"layer_norm_type": "rms_norm"},
        {"logn_attention_scale": True},
        {"logn_attention_clip1": True},
        {"pack_qkv": False},
        {"rope_scaling": {"type": "ntk"}},
        {"rope_scaling": {"type": "ntk", "factor": 1.0}},
        {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}},
        {"rope_parameters": {"rope_type": "ntk", "factor": "8"}},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(GteModel, CONFIG | {"num_attention_heads": 2}, changes)


@pytest.mark.parametrize(
    "made",
    [GteModel, GteForMaskedLM, GteForSequenceClassification, GteForTokenClassification],
    ids=lambda c: c.__name__,
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG | {"num_attention_heads": 2})


def folder_of(path, tensors, **changes):
    content = json.loads((checks.GOLDEN / "gte" / "config.json").read_text(encoding="utf-8"))
    path.mkdir()
    write_json(path / "config.json", content | changes)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path / "model.safetensors")
    return path


def golden_tensors():
    return {name: tensor.array() for name, tensor in Checkpoint.open(checks.GOLDEN / "gte").tensors.items()}


def test_folders_of_the_first_code(tmp_path):
    """Another prefix and other names of classes; or the bare model."""
    expected, tensors = load_model(checks.GOLDEN / "gte")(IDS, MASK), golden_tensors()
    changes = {"model_type": "new", "architectures": ["NewForSequenceClassification"]}
    changes |= {"rope_parameters": None, "rope_theta": 50.0, "rope_scaling": None, "pack_qkv": True}
    named = {name.replace("gte.", "new.", 1): array for name, array in tensors.items()}
    got = load_model(folder_of(tmp_path / "a", named, **changes))
    assert type(got) is GteForSequenceClassification
    np.testing.assert_array_equal(got(IDS, MASK).logits, expected.logits)
    got.save_pretrained(tmp_path / "c")
    assert type(load_model(tmp_path / "c")) is GteForSequenceClassification
    bare = {n.removeprefix("gte."): a for n, a in tensors.items() if n.startswith("gte.") and "pooler" not in n}
    got = load_model(folder_of(tmp_path / "b", bare, **changes | {"architectures": ["NewModel"]}))
    assert type(got) is GteModel
    np.testing.assert_array_equal(
        got(IDS, MASK)[0], load_model(checks.GOLDEN / "gte", head=False)(IDS, MASK).last_hidden_state
    )


def test_transformers_own_names(tmp_path):
    """Query, key and value apart, and up and gate."""
    expected, tensors = load_model(checks.GOLDEN / "gte")(IDS, MASK), {}
    for name, array in golden_tensors().items():
        name = name.replace("encoder.layer.", "layers.").replace("attention.", "self_attn.")
        name = name.replace("attn_ln", "post_attention_layernorm").replace("mlp_ln", "post_mlp_layernorm")
        parts = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "up_gate_proj": ("up_proj", "gate_proj")}
        for joined, apart in parts.items():
            if joined in name:
                tensors |= dict(
                    zip((name.replace(joined, part) for part in apart), np.split(array, len(apart)), strict=True)
                )
                break
        else:
            tensors[name] = array
    got = load_model(folder_of(tmp_path / "a", tensors))
    np.testing.assert_array_equal(got(IDS, MASK).logits, expected.logits)
    got.save_pretrained(tmp_path / "b")
    np.testing.assert_array_equal(load_model(tmp_path / "b")(IDS, MASK).logits, expected.logits)


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_stretched_positions_of_the_first_code(field):
    """Frequencies 1 / (factor theta)^(2 i / D), divided by factor^(2 / D) all of them."""
    config = GteConfig(**CONFIG | {"hidden_size": 24}, rope_theta=500.0, **{field: {"type": "ntk", "factor": 8.0}})
    cos, sin = config.rotation("all").tables(np.arange(40))
    frequencies = (8 * 500.0) ** (-np.arange(0, 8, 2) / 8) / 8 ** (2 / 8)
    angles = np.arange(40)[:, None] * frequencies
    np.testing.assert_allclose(cos, np.cos(angles), atol=5e-6)
    np.testing.assert_allclose(sin, np.sin(angles), atol=5e-6)
    # A base inside of the field counts, as for other kinds.
    own = GteConfig(**CONFIG, rope_parameters={"rope_type": "ntk", "factor": 2, "rope_theta": 10})
    assert own.rotations()["all"][0] == 20
