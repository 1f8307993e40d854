"""models/albert.py against transformers' own numbers (golden); its checkpoints, its checks, its heads."""

from __future__ import annotations

import encoder_checks as checks
import numpy as np
import pytest

from transformer_fast import load_model, nn
from transformer_fast.models.albert import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertModel,
)

pytest.importorskip("safetensors")
pytest.importorskip("ml_dtypes")

CONFIG = {
    "vocab_size": 30,
    "embedding_size": 6,
    "hidden_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 12,
}
FOLDERS = {"albert": "AlbertForMaskedLM", "albert-labels": "AlbertForSequenceClassification"}


@pytest.fixture(scope="module")
def model():
    return load_model(checks.GOLDEN / "albert", head=False)


@pytest.mark.parametrize("folder", FOLDERS)
def test_golden_numbers_of_transformers(isa, folder):
    checks.golden(folder, FOLDERS[folder])


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_saved_is_loaded(tmp_path, folder):
    checks.round_trip(folder, tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input(model):
    checks.bad_input(model, too_long=13, types=True)


@pytest.mark.parametrize("layers", ["num_hidden_groups", "inner_group_num"])
def test_broken_tensors(tmp_path, layers):
    name = "albert.encoder.albert_layer_groups.0.albert_layers.1.attention.dense.weight"
    checks.broken_tensors("albert", tmp_path, name, layers)


@pytest.mark.parametrize(
    "changes",
    [
        {"position_embedding_type": "relative_key"},
        {"is_causal": True},
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"hidden_act": "mish"},
        {"num_attention_heads": 5},
        {"num_hidden_layers": 1001},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(AlbertModel, CONFIG, changes)


@pytest.mark.parametrize(
    "made",
    [
        AlbertModel,
        AlbertForMaskedLM,
        AlbertForPreTraining,
        AlbertForSequenceClassification,
        AlbertForTokenClassification,
        AlbertForQuestionAnswering,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


@pytest.mark.parametrize(
    "layers, groups, inner, order",
    [(3, 1, 1, [0, 0, 0]), (4, 2, 1, [0, 0, 1, 1]), (3, 2, 2, [0, 1, 0, 1, 2, 3]), (1, 2, 1, [0])],
)
def test_order_of_layers(layers, groups, inner, order):
    sizes = {"num_hidden_layers": layers, "num_hidden_groups": groups, "inner_group_num": inner}
    model = AlbertModel(AlbertConfig(**CONFIG | sizes))
    assert model.config.order() == order and len(model.layers) == groups * inner
    states = model([[7, 8]], output_hidden_states=True).hidden_states
    assert len(states) == len(order) + 1


def test_layers_run_again_with_their_own_weights():
    """As a stack that holds copies of them, to the bit; a changed weight counts in every run."""
    nn.manual_seed(0)
    shared = nn.PackedEncoder(2, 12, 3, 10, "gelu", 1e-5, order=[1, 0, 1])
    plain = nn.PackedEncoder(3, 12, 3, 10, "gelu", 1e-5)
    hidden, starts = np.random.default_rng(0).standard_normal((7, 12)).astype(np.float32), np.array([0, 3, 7])
    for _ in range(2):
        for i, own in enumerate(shared.order):
            plain[i].load_state_dict(shared[own].state_dict())
        expected = plain(hidden, starts)
        np.testing.assert_array_equal(shared(hidden, starts), expected)
        collect = nn.Collector(np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool), hidden_states=True)
        np.testing.assert_array_equal(shared(hidden, starts, collect=collect), expected)
        assert len(collect.hidden_states) == 4
        row = shared(hidden, starts, pooled_rows=[2, 0])
        np.testing.assert_array_equal(row, plain(hidden, starts, pooled_rows=[2, 0]))
        shared[1].feed_forward.linear1.weight = shared[1].feed_forward.linear1.weight * 2
    with pytest.raises(ValueError, match=r"order is \[0, 2\]; needed: numbers of the 2 layers"):
        nn.PackedEncoder(2, 12, 3, 10, "gelu", 1e-5, order=[0, 2])
