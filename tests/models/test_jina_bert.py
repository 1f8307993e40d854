"""models/jina_bert.py against a twin in float64, since transformers has no class for it.

The twin follows the behaviour of the code that the folders name (jinaai/jina-bert-implementation, modeling_bert.py):
BERT's attention with -slope * |i - j| on its scores, no table of positions, and norm(x + wo(act(gate) * up)), with gate
and up the first and the second half of gated_layers.
"""

from __future__ import annotations

import math

import encoder_checks as checks
import numpy as np
import pytest
from model_folders import write_json

from transformer_fast import load_model, nn
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
from transformer_fast.models.bert import BertForMaskedLM
from transformer_fast.models.jina_bert import (
    JinaBertConfig,
    JinaBertForMaskedLM,
    JinaBertForMultipleChoice,
    JinaBertForQuestionAnswering,
    JinaBertForSequenceClassification,
    JinaBertForTokenClassification,
    JinaBertModel,
)

pytest.importorskip("ml_dtypes")
save_file = pytest.importorskip("safetensors.numpy").save_file

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-5,
}
# The further fields of jina-embeddings-v2-base-en.
REAL = {
    "_name_or_path": "jinaai/jina-bert-implementation",
    "attn_implementation": "torch",
    "auto_map": {"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"},
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": None,
    "emb_pooler": "mean",
    "feed_forward_type": "geglu",
    "gradient_checkpointing": False,
    "model_max_length": 8192,
    "model_type": "bert",
    "position_embedding_type": "alibi",
    "use_cache": True,
}
IDS = np.array([[7, 8, 9, 10, 11], [11, 12, 13, 0, 0], [0, 0, 9, 8, 7], [7, 0, 8, 0, 9]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1]])
TYPES = np.array([[0, 0, 1, 1, 1]] * 4)


def slopes_of(heads):
    """Press et al.'s, as their code finds them."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return slopes_of(power) + slopes_of(2 * power)[::2][: heads - power]


def twin(tensors, config, ids, mask, types, act):
    """Hidden states (layers + 1, B, L, h) in float64 and the attentions of the last layer."""
    tensors = {name: array.astype(np.float64) for name, array in tensors.items()}
    H, eps = config["num_attention_heads"], config["layer_norm_eps"]

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0)

    def norm(x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    B, L = ids.shape
    x = tensors["embeddings.word_embeddings.weight"][ids] + tensors["embeddings.token_type_embeddings.weight"][types]
    states = [norm(x, "embeddings.LayerNorm")]
    distances = np.abs(np.arange(L)[:, None] - np.arange(L))
    bias = -np.array(slopes_of(H))[:, None, None] * distances
    for i in range(config["num_hidden_layers"]):
        x, layer = states[-1], f"encoder.layer.{i}"
        heads = (
            linear(x, f"{layer}.attention.self.{part}").reshape(B, L, H, -1).swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        query, key, value = heads
        scores = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1]) + bias
        scores = np.where(mask[:, None, None], scores, -1e30)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = norm(
            x + linear((weights @ value).swapaxes(1, 2).reshape(B, L, -1), f"{layer}.attention.output.dense"),
            f"{layer}.attention.output.LayerNorm",
        )
        gate, up = np.split(linear(x, f"{layer}.mlp.gated_layers"), 2, axis=-1)
        states.append(norm(x + linear(act(gate) * up, f"{layer}.mlp.wo"), f"{layer}.mlp.layernorm"))
    return np.stack(states), weights


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def folder_of(path, made=JinaBertForMaskedLM, **changes):
    """A folder as the code writes it, of a model with random weights."""
    nn.manual_seed(0)
    rng = np.random.default_rng(0)
    model = made(JinaBertConfig(**CONFIG, **{k: v for k, v in changes.items() if k == "feed_forward_type"}))
    state = {n: a + rng.standard_normal(a.shape).astype(np.float32) * 0.3 for n, a in model.state_dict().items()}
    if "decoder.weight" in state:
        state["decoder.weight"] = state["base.word_embeddings.weight"]
    model.load_state_dict(state)
    model.save_pretrained(path)
    write_json(path / "config.json", CONFIG | REAL | {"architectures": [made.__name__]} | changes)
    return path


def tensors_of(folder):
    return {name.removeprefix("bert."): t.array() for name, t in Checkpoint.open(folder).tensors.items()}


@pytest.mark.parametrize("kind, act", [("geglu", gelu), ("reglu", lambda x: np.maximum(x, 0))])
def test_numbers_of_the_twin(isa, tmp_path, kind, act):
    """Padding on the right, on the left and between: distances count it, as columns."""
    folder = folder_of(tmp_path / "model", feed_forward_type=kind)
    model, keep = load_model(folder, head=False), MASK.astype(bool)
    assert type(model) is JinaBertModel
    states, weights = twin(tensors_of(folder), CONFIG, IDS, MASK, TYPES, act)
    found = model(IDS, MASK, TYPES, **checks.REPORT)
    for got, expected in zip(found.hidden_states, states, strict=True):
        np.testing.assert_allclose(got[keep], expected[keep], atol=checks.TOLERANCE, rtol=0)
        assert not got[~keep].any()
    both = keep[:, None, :, None] & keep[:, None, None]
    np.testing.assert_allclose(found.attentions[-1], np.where(both, weights, 0), atol=checks.TOLERANCE, rtol=0)
    np.testing.assert_array_equal(model(IDS, MASK, TYPES)[0], found.last_hidden_state)


def test_heads_are_berts(isa, tmp_path):
    """The first state through the pooler, and masked words."""
    folder = folder_of(tmp_path / "labels", JinaBertForSequenceClassification)
    tensors = tensors_of(folder)
    first = twin(tensors, CONFIG, IDS, MASK, TYPES, gelu)[0][-1][:, 0]
    pooled = np.tanh(first @ tensors["pooler.dense.weight"].T + tensors["pooler.dense.bias"])
    expected = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(load_model(folder)(IDS, MASK, TYPES).logits, expected, atol=checks.TOLERANCE)
    words = load_model(folder_of(tmp_path / "words"))
    hidden = words.base(IDS, MASK, TYPES).last_hidden_state
    np.testing.assert_allclose(words(IDS, MASK, TYPES).logits[0], words.predictions(hidden[0]), atol=checks.TOLERANCE)


def test_what_is_saved_is_loaded(tmp_path):
    model = load_model(folder_of(tmp_path / "a"))
    assert type(model) is JinaBertForMaskedLM
    model.save_pretrained(tmp_path / "b")
    again = load_model(tmp_path / "b")
    assert type(again) is JinaBertForMaskedLM and again.config == model.config
    np.testing.assert_array_equal(again(IDS, MASK).logits, model(IDS, MASK).logits)
    before, after = (read_json_object(tmp_path / name / "config.json") for name in "ab")
    assert before | {"dtype": "float32"} == after
    tied = {"cls.predictions.decoder.weight"}
    assert checks.tensor_names(tmp_path / "a") - tied == checks.tensor_names(tmp_path / "b")


def test_bert_stays_bert(tmp_path):
    """position_embedding_type alone decides between the two."""
    BertForMaskedLM(BertForMaskedLM.config_class(**CONFIG)).save_pretrained(tmp_path)
    assert type(load_model(tmp_path)) is BertForMaskedLM
    write_json(tmp_path / "config.json", CONFIG | {"model_type": "bert", "position_embedding_type": "alibi"})
    with pytest.raises(CheckpointError, match="missing tensors: .*gated_layers"):
        load_model(tmp_path)


def test_packing_and_padding(isa, tmp_path):
    checks.packing(load_model(folder_of(tmp_path / "model"), head=False))


def test_bad_input():
    nn.manual_seed(0)
    model = JinaBertModel(JinaBertConfig(**CONFIG))
    checks.bad_input(model, types=True)
    with pytest.raises(IndexError, match="token_type_ids holds 2"):
        model([[7, 8]], token_type_ids=[[0, 2]])
    assert model.max_length == 12 and model(np.full((1, 20), 7))[0].shape[1] == 20  # distances have no end


def test_tensors_of_other_models_are_refused(tmp_path):
    """Those with normalised queries and keys."""
    folder = folder_of(tmp_path / "model")
    tensors = {name: t.array().copy() for name, t in Checkpoint.open(folder).tensors.items()}
    name = "bert.encoder.layer.0.attention.self.layer_norm_q.weight"
    save_file(tensors | {name: np.ones(12, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not use: .*layer_norm_q"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"position_embedding_type": "absolute"},
        {"feed_forward_type": "original"},
        {"is_decoder": True},
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"hidden_act": "mish"},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(JinaBertModel, CONFIG, changes)


@pytest.mark.parametrize(
    "made",
    [
        JinaBertModel,
        JinaBertForMaskedLM,
        JinaBertForSequenceClassification,
        JinaBertForTokenClassification,
        JinaBertForQuestionAnswering,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


def test_choices():
    nn.manual_seed(0)
    assert JinaBertForMultipleChoice(JinaBertConfig(**CONFIG))([[[7, 8], [8, 9]]]).logits.shape == (1, 2)
