"""models/roberta.py against transformers' own numbers (golden); its checkpoints, its checks, its heads."""

from __future__ import annotations

import encoder_checks as checks
import numpy as np
import pytest

from transformer_fast import load_model
from transformer_fast.models.roberta import (
    RobertaForMaskedLM,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
    XLMRobertaForMaskedLM,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
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
    return load_model(checks.GOLDEN / "roberta", head=False)


def test_golden_numbers_of_transformers(isa):
    checks.golden("roberta", "RobertaForMaskedLM")


def test_what_is_saved_is_loaded(tmp_path):
    checks.round_trip("roberta", tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input(model):
    checks.bad_input(model, too_long=11, types=True)


def test_broken_tensors(tmp_path):
    checks.broken_tensors("roberta", tmp_path, "roberta.encoder.layer.1.output.dense.bias")


@pytest.mark.parametrize(
    "changes",
    [
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"hidden_act": "mish"},
        {"num_attention_heads": 5},
        *({"pad_token_id": value} for value in (None, -1, 30, 11, 1.0)),
        {"tie_word_embeddings": 1},
        {"id2label": ["a", "b"]},
        {"num_labels": 0},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(RobertaModel, CONFIG, changes)


@pytest.mark.parametrize(
    "made",
    [
        RobertaModel,
        RobertaForMaskedLM,
        RobertaForSequenceClassification,
        RobertaForTokenClassification,
        RobertaForQuestionAnswering,
        XLMRobertaModel,
        XLMRobertaForMaskedLM,
        XLMRobertaForSequenceClassification,
        XLMRobertaForTokenClassification,
        XLMRobertaForQuestionAnswering,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


def test_xlm_roberta(isa, tmp_path):
    """In shards, with one token type."""
    checks.golden("xlm-roberta", "XLMRobertaForTokenClassification")
    checks.round_trip("xlm-roberta", tmp_path)
    assert load_model(tmp_path).config.labels == ("low", "middle", "high")


def test_positions_count_what_is_not_padding(model):
    ids = np.array([[7, 1, 8, 9, 1, 1]])
    positions = [[2, 1, 3, 4, 1, 1]]
    assert np.array_equal(model(ids)[0], model(ids, position_ids=positions)[0])
    assert np.array_equal(model.encode_packed(ids[0], [0, 6]), model(ids)[0][0])
    assert np.array_equal(model.encode_packed(np.tile(ids[0], 2), [0, 6, 12])[6:], model(ids)[0][0])
    # Padding ids are no tokens that count, so that more of them than positions are no error.
    assert model(np.array([[7] * 10 + [1] * 9]))[0].shape == (1, 19, 15)
