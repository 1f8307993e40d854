"""models/roberta.py against transformers' own numbers (golden); its checkpoints, its checks, its heads."""

from __future__ import annotations

import encoder_checks as checks
import numpy as np
import pytest
from model_folders import write_json

from transformer_fast import load_model
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
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

save_file = pytest.importorskip("safetensors.numpy").save_file
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


def flash_name(name):
    """A tensor's name in jina-reranker-v2."""
    for ours, theirs in (
        ("embeddings.LayerNorm", "emb_ln"),
        ("attention.output.dense", "mixer.out_proj"),
        ("attention.output.LayerNorm", "norm1"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("output.LayerNorm", "norm2"),
        ("encoder.layer.", "encoder.layers."),
    ):
        name = name.replace(ours, theirs)
    return name


def test_names_of_tensors_in_jina_reranker(tmp_path):
    """The same numbers under those names, with query, key and value in one tensor; transformers' are written."""
    golden = checks.GOLDEN / "xlm-roberta"
    tensors = {flash_name(n): t.array() for n, t in Checkpoint.open(golden).tensors.items()}
    for start in [name.removesuffix("attention.self.query.weight") for name in tensors if ".self.query.weight" in name]:
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"{start}attention.self.{part}.{kind}") for part in ("query", "key", "value")]
            tensors[f"{start}mixer.Wqkv.{kind}"] = np.concatenate(parts)
    content = read_json_object(golden / "config.json") | {"use_flash_attn": True, "lora_adaptations": None}
    write_json(tmp_path / "config.json", content)
    save_file(tensors, tmp_path / "model.safetensors")
    ids, expected = np.array([[7, 8, 9]]), load_model(golden)
    model = load_model(tmp_path)
    np.testing.assert_array_equal(model(ids).logits, expected(ids).logits)
    model.save_pretrained(tmp_path / "saved")
    assert set(Checkpoint.open(tmp_path / "saved").tensors) == set(Checkpoint.open(golden).tensors)
    write_json(tmp_path / "config.json", content | {"lora_adaptations": ["a"]})
    with pytest.raises(CheckpointError, match="lora_adaptations is .*; needed: None"):
        load_model(tmp_path)


def test_positions_count_what_is_not_padding(model):
    ids = np.array([[7, 1, 8, 9, 1, 1]])
    positions = [[2, 1, 3, 4, 1, 1]]
    assert np.array_equal(model(ids)[0], model(ids, position_ids=positions)[0])
    assert np.array_equal(model.encode_packed(ids[0], [0, 6]), model(ids)[0][0])
    assert np.array_equal(model.encode_packed(np.tile(ids[0], 2), [0, 6, 12])[6:], model(ids)[0][0])
    # Padding ids are no tokens that count, so that more of them than positions are no error.
    assert model(np.array([[7] * 10 + [1] * 9]))[0].shape == (1, 19, 15)
