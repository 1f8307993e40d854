"""models/modernbert.py against transformers' own numbers (golden); its checkpoints, its checks, its heads."""

from __future__ import annotations

import encoder_checks as checks
import numpy as np
import pytest

from transformer_fast import load_model, nn
from transformer_fast.models.modernbert import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    ModernBertModel,
)

pytest.importorskip("safetensors")
pytest.importorskip("ml_dtypes")

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 12,
}


@pytest.fixture(scope="module")
def model():
    return load_model(checks.GOLDEN / "modernbert", head=False)


def test_golden_numbers_of_transformers(isa):
    checks.golden("modernbert", "ModernBertForMaskedLM")


def test_what_is_saved_is_loaded(tmp_path):
    checks.round_trip("modernbert", tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


@pytest.mark.parametrize("kinds", [["sliding", "sliding"], ["sliding", "full"], ["full", "sliding"]], ids="-".join)
def test_padding_in_one_text_does_not_change_another(isa, kinds):
    """Texts long enough for whole blocks of keys, beside one with a hole and one with padding on the left."""
    nn.manual_seed(0)
    kinds = [f"{kind}_attention" for kind in kinds]
    config = CONFIG | {"num_hidden_layers": 2, "layer_types": kinds, "local_attention": 64}
    model = ModernBertModel(ModernBertConfig(**config))
    ids = np.random.default_rng(0).integers(6, 30, (4, 600))
    mask = np.ones((4, 600), int)
    mask[1, 5:9] = mask[2, :7] = mask[3, 300:] = 0
    together = model.encode(ids, mask, first=True)
    only = model.encode(ids, mask, first=True, rows=False).first
    alone = model.encode(ids[:1], mask[:1], first=True)
    assert np.array_equal(alone.rows, together.rows[:600]) and np.array_equal(alone.first[0], together.first[0])
    short = model.encode(ids[3:, :300], first=True)
    assert np.array_equal(short.rows, together.rows[-300:]) and np.array_equal(short.first[0], together.first[3])
    np.testing.assert_allclose(only, together.first, atol=1e-5)
    for row, b, L in ((0, 0, 600), (3, 3, 300)):
        assert np.array_equal(model.encode(ids[b : b + 1, :L], first=True, rows=False).first[0], only[row])


def test_bad_input(model):
    checks.bad_input(model)


def test_broken_tensors(tmp_path):
    checks.broken_tensors("modernbert", tmp_path, "model.layers.1.mlp.Wi.weight")


@pytest.mark.parametrize(
    "changes",
    [
        {"position_embedding_type": "relative_key"},
        {"quantization_config": {"bits": 8}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"hidden_activation": "mish"},
        {"classifier_activation": "mish"},
        {"num_attention_heads": 4},
        {"classifier_pooling": "max"},
        {"layer_types": ["full_attention", "full_attention"]},
        {"layer_types": ["chunked_attention"]},
        {"layer_types": "full_attention"},
        {"rope_parameters": {"rope_theta": 10000.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "unheard of"}}},
        {"norm_bias": 1},
        {"local_attention": 0},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(ModernBertModel, CONFIG, changes)


@pytest.mark.parametrize(
    "made",
    [
        ModernBertModel,
        ModernBertForMaskedLM,
        ModernBertForSequenceClassification,
        ModernBertForTokenClassification,
        ModernBertForQuestionAnswering,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


def test_older_files_say_it_otherwise():
    """global_attn_every_n_layers for layer_types, two thetas for rope_parameters."""
    config = ModernBertModel.config_class(**CONFIG | {"num_hidden_layers": 5, "global_attn_every_n_layers": 2})
    assert [kind == "full_attention" for kind in config.kinds()] == [True, False, True, False, True]
    old = ModernBertModel.config_class(**CONFIG, global_rope_theta=700.0, local_rope_theta=80.0)
    parameters = {
        "full_attention": {"rope_type": "default", "rope_theta": 700.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 80.0},
    }
    new = ModernBertModel.config_class(**CONFIG, rope_parameters=parameters)
    for kind, theta in (("full_attention", 700.0), ("sliding_attention", 80.0)):
        assert old.rotation(kind).scaling.base == new.rotation(kind).scaling.base == theta


def test_windows_count_padding_between_tokens(model):
    """Two tokens with three of padding between them are out of each other's reach, which is 2."""
    ids, mask = np.array([[7, 0, 0, 0, 8]]), [[1, 0, 0, 0, 1]]
    weights = model(ids, mask, output_attentions=True).attentions
    assert weights[0][0, :, 0, 4].all(), "the first layer attends everything"
    assert np.array_equal(weights[1][0, :, [0, 4]][:, :, [0, 4]], np.tile(np.eye(2, dtype=np.float32)[:, None], (2, 1)))


def test_mean_pooling():
    config = ModernBertModel.config_class(**CONFIG, classifier_pooling="mean")
    model = ModernBertForSequenceClassification(config)
    padded = model(np.array([[7, 8, 9, 1]]), [[1, 1, 1, 0]]).logits
    np.testing.assert_allclose(padded, model([[7, 8, 9]]).logits, atol=1e-6)
    assert np.isfinite(model([[7, 8]], [[0, 0]]).logits).all()
