"""models/electra.py against transformers' own numbers (golden); its checkpoints, its checks, its heads."""

from __future__ import annotations

import json

import encoder_checks as checks
import numpy as np
import pytest

from transformer_fast import load_model
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
from transformer_fast.models.electra import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForMultipleChoice,
    ElectraForPreTraining,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraModel,
)

pytest.importorskip("ml_dtypes")
save_file = pytest.importorskip("safetensors.numpy").save_file

CONFIG = {
    "vocab_size": 30,
    "embedding_size": 8,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 12,
}
# Folder of the golden model -> its class. The generator's embeddings are projected, the discriminator's are not.
GOLDEN = {"electra": "ElectraForPreTraining", "electra-generator": "ElectraForMaskedLM"}


@pytest.fixture(scope="module", params=GOLDEN)
def model(request):
    return load_model(checks.GOLDEN / request.param, head=False)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers_of_transformers(isa, name):
    checks.golden(name, GOLDEN[name])


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_saved_is_loaded(tmp_path, name):
    checks.round_trip(name, tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input(model):
    checks.bad_input(model, too_long=13, types=True)
    with pytest.raises(IndexError, match="token_type_ids holds 2; needed: 0 to 1"):
        model([[7, 8]], token_type_ids=[[0, 2]])


@pytest.mark.parametrize(
    "name, tensor",
    [
        ("electra", "electra.encoder.layer.1.output.dense.bias"),
        ("electra", "discriminator_predictions.dense_prediction.weight"),
        ("electra-generator", "electra.embeddings_project.weight"),
        ("electra-generator", "generator_lm_head.bias"),
    ],
)
def test_broken_tensors(tmp_path, name, tensor):
    checks.broken_tensors(name, tmp_path, tensor)


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
        {"embedding_size": 0},
        {"tie_word_embeddings": 1},
        {"summary_type": None},
        {"summary_use_proj": "yes"},
        {"summary_activation": 1},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(ElectraModel, CONFIG, changes)


@pytest.mark.parametrize("embedding_size", [8, 12])
@pytest.mark.parametrize(
    "made",
    [
        ElectraModel,
        ElectraForPreTraining,
        ElectraForMaskedLM,
        ElectraForSequenceClassification,
        ElectraForTokenClassification,
        ElectraForQuestionAnswering,
    ],
)
def test_fresh_models(made, embedding_size):
    checks.fresh(made, CONFIG | {"embedding_size": embedding_size})


def test_a_projection_that_nothing_asks_for(tmp_path):
    """A file with a projection whose config.json gives both widths the same number."""
    ElectraModel(ElectraConfig(**CONFIG | {"embedding_size": 12})).save_pretrained(tmp_path)
    tensors = {name: tensor.array().copy() for name, tensor in Checkpoint.open(tmp_path).tensors.items()}
    assert not any(name.startswith("embeddings_project.") for name in tensors)
    save_file(tensors | {"embeddings_project.bias": np.zeros(12, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not use: 'embeddings_project\.bias'"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "made",
    [
        ElectraForPreTraining,
        ElectraForMaskedLM,
        ElectraForSequenceClassification,
        ElectraForMultipleChoice,
        ElectraForTokenClassification,
        ElectraForQuestionAnswering,
    ],
)
def test_heads_are_saved_and_left_out(made, tmp_path):
    """Each head is loaded again to the bit; without it, the same file gives the encoder."""
    model = made(ElectraConfig(**CONFIG))
    model.save_pretrained(tmp_path)
    again, encoder = load_model(tmp_path), load_model(tmp_path, head=False)
    assert type(again) is made and type(encoder) is ElectraModel
    ids = np.array([[[7, 8, 9], [9, 8, 7]]]) if made is ElectraForMultipleChoice else np.array([[7, 8, 9]])
    assert np.array_equal(again(ids)[0], model(ids)[0])
    hidden = model(ids, output_hidden_states=True).hidden_states[-1]
    assert np.array_equal(encoder(ids.reshape(-1, 3))[0], hidden)


def test_one_logit_for_each_token():
    model = ElectraForPreTraining(ElectraConfig(**CONFIG))
    mask = np.array([[1, 1, 1, 0], [0, 1, 0, 1]])
    logits = model(np.array([[7, 8, 9, 0], [0, 9, 0, 8]]), mask).logits
    assert logits.shape == (2, 4) and logits.dtype == np.float32 and logits.flags.c_contiguous
    assert not logits[mask == 0].any() and logits[mask == 1].all()


@pytest.mark.parametrize(
    "changes, needed",
    [
        ({"summary_type": "mean"}, "'first'"),
        ({"summary_type": "last"}, "'first'"),
        ({"summary_use_proj": False}, "True"),
        ({"summary_activation": "mish"}, "gelu, "),
    ],
    ids=str,
)
def test_summaries_that_choices_cannot_have(tmp_path, changes, needed):
    """What only the head for choices reads is refused by it alone."""
    ElectraForMultipleChoice(ElectraConfig(**CONFIG)).save_pretrained(tmp_path)
    content = read_json_object(tmp_path / "config.json") | changes
    (tmp_path / "config.json").write_text(json.dumps(content))
    ((field, value),) = changes.items()
    with pytest.raises(CheckpointError, match=rf"config\.json: {field} is {value!r}; supported: {needed}"):
        load_model(tmp_path)
    assert type(load_model(tmp_path, head=False)) is ElectraModel
