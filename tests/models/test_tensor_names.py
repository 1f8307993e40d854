"""models/common/tensor_names.py: prefixes of wrappers, tensors of other heads, and copies of the embeddings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from encoder_checks import GOLDEN
from model_folders import TINY_BERT, bert_tensors, write_bert

from transformer_fast import load_model, nn
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification
from transformer_fast.models.common import tensor_names
from transformer_fast.models.gemma2 import Gemma2Config, Gemma2ForCausalLM
from transformer_fast.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformer_fast.models.llama import LlamaConfig, LlamaForCausalLM
from transformer_fast.models.t5 import T5Config, T5EncoderModel, T5Model

pytest.importorskip("ml_dtypes")
save_file = pytest.importorskip("safetensors.numpy").save_file

GATED = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
SMALL = (50, 8, 16, 1)
CAUSAL = [
    (GPT2LMHeadModel, GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2)),
    (LlamaForCausalLM, LlamaConfig(*SMALL, **GATED)),
    (Gemma2ForCausalLM, Gemma2Config(*SMALL, **GATED, head_dim=4)),
]


def tensors_of(folder) -> dict[str, np.ndarray]:
    return {name: np.array(tensor.array()) for name, tensor in Checkpoint.open(folder).tensors.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "0.auto_model.",
        "language_model.",
        "model.",
        "module._orig_mod.bert.",
        "base_model.model.",
    ],
)
def test_prefixes_of_wrappers(tmp_path, prefix):
    tensors = bert_tensors()
    expected = load_model(write_bert(tmp_path / "plain", TINY_BERT, tensors))([[7, 8]])[0]
    wrapped = write_bert(tmp_path / "wrapped", TINY_BERT, {prefix + name: array for name, array in tensors.items()})
    model = load_model(wrapped)
    assert np.array_equal(model([[7, 8]])[0], expected)
    model.save_pretrained(tmp_path / "saved")
    assert tensors_of(tmp_path / "saved").keys() == tensors.keys()


def test_a_wrapped_language_model(tmp_path):
    """Its own prefix is "model.", which is a wrapper of others."""
    made, config = CAUSAL[1]
    nn.manual_seed(0)
    made(config).save_pretrained(tmp_path)
    expected = load_model(tmp_path)([[3, 4]]).logits
    tensors = tensors_of(tmp_path)
    for prefix in ("language_model.", "module.", "base_model.model."):
        save_file({prefix + name: array for name, array in tensors.items()}, tmp_path / "model.safetensors")
        assert np.array_equal(load_model(tmp_path)([[3, 4]]).logits, expected)


def test_unknown_prefixes_are_named(tmp_path):
    folder = write_bert(tmp_path, TINY_BERT, {f"my.own.{name}": array for name, array in bert_tensors().items()})
    text = (
        r"no tensors of BertModel; all names begin with 'my.own.'; needed: 'bert.encoder.layer.0.'..., alone or after"
    )
    with pytest.raises(CheckpointError, match=text):
        load_model(folder)
    save_file({"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no tensors of BertModel; names are 'a', 'b'; needed"):
        load_model(folder)


def test_a_stack_without_layers(tmp_path):
    config = T5Config(20, 8, 4, 12, 1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    for head in (True, False):
        assert isinstance(load_model(tmp_path, head=head), T5EncoderModel)
    text = r"holds no tensors 'decoder.block.0.'...; needed by T5Model: those of 1 layers \(num_decoder_layers\)"
    with pytest.raises(CheckpointError, match=text):
        T5Model.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name, text",
    [
        ("v_head.summary.weight", "'v_head.summary.weight' .the value head of TRL's AutoModelForCausalLMWithValueHead"),
        ("linear.weight", "'linear.weight' .the projection of a ColBERT model, for PyLate or colbert-ai"),
    ],
)
def test_whose_head_it_is(tmp_path, name, text):
    model = BertForSequenceClassification(BertConfig(50, 8, 1, 2, 8, 16))
    model.save_pretrained(tmp_path)
    tensors = tensors_of(tmp_path) | {name: np.zeros((2, 8), np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"does not use: ({text}).*; needed: a file without them"):
        load_model(tmp_path)
    save_file(tensors | {"more": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="'more'; needed: a file without them"):
        load_model(tmp_path)


def test_heads_of_other_classes(tmp_path):
    made, config = CAUSAL[0]
    made(config).save_pretrained(tmp_path)
    save_file(tensors_of(tmp_path) | {"score.weight": np.zeros((2, 8), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not use: 'score.weight' \(for GPT2ForSequenceClassification\)"):
        load_model(tmp_path)


@pytest.mark.parametrize("made, config", CAUSAL, ids=lambda value: getattr(value, "__name__", ""))
def test_a_stored_head_wins_over_the_tied_one(tmp_path, made, config):
    nn.manual_seed(0)
    made(config).save_pretrained(tmp_path)
    tied = load_model(tmp_path)
    embeddings = tied.body.state_dict()[made.embedding_name]
    assert np.shares_memory(tied.lm_head.weight, embeddings)

    tensors = tensors_of(tmp_path)
    save_file(tensors | {"lm_head.weight": embeddings.copy()}, tmp_path / "model.safetensors")
    same = load_model(tmp_path)
    assert np.shares_memory(same.lm_head.weight, same.body.state_dict()[made.embedding_name]), "one copy is enough"
    assert np.array_equal(same([[3, 4]]).logits, tied([[3, 4]]).logits)

    other = embeddings[::-1].copy()
    save_file(tensors | {"lm_head.weight": other}, tmp_path / "model.safetensors")
    stored = load_model(tmp_path)
    assert np.array_equal(stored.lm_head.weight, other)
    np.testing.assert_allclose(stored([[3, 4]]).logits, tied([[3, 4]]).logits[..., ::-1], atol=1e-6)
    stored.save_pretrained(tmp_path / "saved")
    assert np.array_equal(tensors_of(tmp_path / "saved")["lm_head.weight"], other)


def test_masked_words_keep_one_copy(tmp_path):
    model = BertForMaskedLM(BertConfig(50, 8, 1, 2, 8, 16))
    model.save_pretrained(tmp_path)
    words = model.base.word_embeddings.weight
    save_file(tensors_of(tmp_path) | {"cls.predictions.decoder.weight": words.copy()}, tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    assert np.shares_memory(again.decoder.weight, again.base.word_embeddings.weight)


def test_copies_are_told_by_all_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_names, "_BLOCK", 16)
    first = np.arange(40, dtype=np.float32).reshape(8, 5)
    last = first.copy()
    last[-1, -1] += 1
    save_file({"a": first, "b": first, "c": last, "d": first.reshape(5, 8)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    tensors = Checkpoint.open(tmp_path).tensors
    found = {name: tensor_names.is_copy(tensors["a"], tensors[name]) for name in "bcd"}
    assert found == {"b": True, "c": False, "d": False}


@pytest.mark.parametrize("model_type, prefix", [("camembert", "roberta."), ("data2vec-text", "data2vec_text.")])
def test_robertas_relatives(tmp_path, model_type, prefix):
    """The golden RoBERTa under another name."""
    golden = GOLDEN / "roberta"
    config = json.loads((golden / "config.json").read_text())
    (name,) = config["architectures"]
    family = {"camembert": "Camembert", "data2vec-text": "Data2VecText"}[model_type]
    names = {"model_type": model_type, "architectures": [name.replace("Roberta", family)]}
    (tmp_path / "config.json").write_text(json.dumps(config | names))
    tensors = {key.replace("roberta.", prefix): array for key, array in tensors_of(golden).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert type(model).__name__ == names["architectures"][0]
    assert np.array_equal(model([[7, 8, 9]])[0], load_model(golden)([[7, 8, 9]])[0])
    model.save_pretrained(tmp_path / "saved")
    assert tensors_of(tmp_path / "saved").keys() == tensors.keys()
