"""models/mpnet.py against transformers' own numbers (golden); its checkpoints, its checks, its heads."""

from __future__ import annotations

import encoder_checks as checks
import numpy as np
import pytest

from transformer_fast import load_model
from transformer_fast.models.mpnet import (
    MPNetForMaskedLM,
    MPNetForQuestionAnswering,
    MPNetForSequenceClassification,
    MPNetForTokenClassification,
    MPNetModel,
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
    return load_model(checks.GOLDEN / "mpnet", head=False)


def test_golden_numbers_of_transformers(isa):
    checks.golden("mpnet", "MPNetForMaskedLM")


def test_what_is_saved_is_loaded(tmp_path):
    checks.round_trip("mpnet", tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input(model):
    checks.bad_input(model, too_long=11)


def test_broken_tensors(tmp_path):
    checks.broken_tensors("mpnet", tmp_path, "mpnet.encoder.layer.1.attention.attn.o.weight")


@pytest.mark.parametrize(
    "changes",
    [
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"hidden_act": "mish"},
        {"num_attention_heads": 5},
        {"relative_attention_num_buckets": 16},
        {"max_position_embeddings": 2},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(MPNetModel, CONFIG, changes)


@pytest.mark.parametrize(
    "made",
    [
        MPNetModel,
        MPNetForMaskedLM,
        MPNetForSequenceClassification,
        MPNetForTokenClassification,
        MPNetForQuestionAnswering,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


def test_distances_count_padding_between_tokens(model):
    """Holes change distances, as in transformers; padding at the ends does not."""
    ids = np.array([[7, 1, 1, 8, 9]])
    holes = model(ids, [[1, 0, 0, 1, 1]])[0][0, [0, 3, 4]]
    assert not np.allclose(holes, model([[7, 8, 9]])[0][0], atol=1e-3)
    ends = model(np.array([[1, 7, 8, 9, 1]]), [[0, 1, 1, 1, 0]])[0][0, 1:4]
    assert np.array_equal(ends, model([[7, 8, 9]])[0][0])
