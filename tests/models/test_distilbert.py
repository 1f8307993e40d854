"""models/distilbert.py against transformers' own numbers (golden); its checkpoints, its checks, its heads."""

from __future__ import annotations

import encoder_checks as checks
import pytest

from transformer_fast import load_model
from transformer_fast.models.distilbert import (
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)

pytest.importorskip("safetensors")
pytest.importorskip("ml_dtypes")

CONFIG = {"vocab_size": 30, "dim": 12, "n_layers": 1, "n_heads": 3, "hidden_dim": 10, "max_position_embeddings": 12}


@pytest.fixture(scope="module")
def model():
    return load_model(checks.GOLDEN / "distilbert", head=False)


def test_golden_numbers_of_transformers(isa):
    checks.golden("distilbert", "DistilBertForQuestionAnswering")


def test_what_is_saved_is_loaded(tmp_path):
    checks.round_trip("distilbert", tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input(model):
    checks.bad_input(model, too_long=13)


def test_broken_tensors(tmp_path):
    checks.broken_tensors("distilbert", tmp_path, "distilbert.transformer.layer.1.ffn.lin2.bias")


@pytest.mark.parametrize(
    "changes",
    [
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"activation": "mish"},
        {"n_heads": 5},
        {"dim": 0},
        {"tie_word_embeddings": "yes"},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(DistilBertModel, CONFIG, changes)


@pytest.mark.parametrize(
    "made",
    [
        DistilBertModel,
        DistilBertForMaskedLM,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertForQuestionAnswering,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)
