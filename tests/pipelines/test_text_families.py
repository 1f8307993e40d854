"""SentenceEncoder on every family of encoders of text: lengths, the name of padding, sentence-transformers' numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from model_folders import WORDS, write_json, write_sentence_model, write_tokenizer

from transformer_fast import nn
from transformer_fast.models.albert import AlbertConfig, AlbertModel
from transformer_fast.models.big_bird import BigBirdConfig, BigBirdModel
from transformer_fast.models.deberta_v2 import DebertaV2Config, DebertaV2Model
from transformer_fast.models.distilbert import DistilBertConfig, DistilBertModel
from transformer_fast.models.electra import ElectraConfig, ElectraModel
from transformer_fast.models.gte import GteConfig, GteModel
from transformer_fast.models.jina_bert import JinaBertConfig, JinaBertModel
from transformer_fast.models.jina_v3 import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model
from transformer_fast.models.longformer import LongformerConfig, LongformerModel
from transformer_fast.models.modernbert import ModernBertConfig, ModernBertModel
from transformer_fast.models.mpnet import MPNetConfig, MPNetModel
from transformer_fast.models.nomic_bert import NomicBertConfig, NomicBertModel
from transformer_fast.models.roberta import RobertaConfig, RobertaModel, XLMRobertaModel
from transformer_fast.pipelines import SentenceEncoder

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

SIZES = (len(WORDS), 24, 2, 3, 40, 16)
MODELS = {
    "roberta": (RobertaModel, RobertaConfig(*SIZES, pad_token_id=0), 15),
    "xlm-roberta": (XLMRobertaModel, RobertaConfig(*SIZES, pad_token_id=0, type_vocab_size=1), 15),
    "albert": (AlbertModel, AlbertConfig(*SIZES, embedding_size=10), 16),
    "deberta-v2": (
        DebertaV2Model,
        DebertaV2Config(
            *SIZES[:5],
            max_position_embeddings=16,
            relative_attention=True,
            position_buckets=6,
            pos_att_type=["c2p", "p2c"],
            share_att_key=True,
            position_biased_input=False,
        ),
        16,
    ),
    "distilbert": (DistilBertModel, DistilBertConfig(len(WORDS), 24, 2, 3, 40, 16), 16),
    "electra": (ElectraModel, ElectraConfig(*SIZES, embedding_size=10), 16),
    "gte": (GteModel, GteConfig(len(WORDS), 24, 40, 2, 3, max_position_embeddings=16), 16),
    "jina-bert": (JinaBertModel, JinaBertConfig(*SIZES), 16),
    "mpnet": (MPNetModel, MPNetConfig(*SIZES), 14),
    "big_bird": (BigBirdModel, BigBirdConfig(*SIZES), 16),
    "longformer": (LongformerModel, LongformerConfig(*SIZES, pad_token_id=0, attention_window=4), 15),
    "modernbert": (ModernBertModel, ModernBertConfig(len(WORDS), 24, 40, 3, 3, local_attention=4, pad_token_id=0), 20),
    "jina-v3": (
        JinaEmbeddingsV3Model,
        JinaEmbeddingsV3Config(len(WORDS), 24, 40, 2, 3, max_position_embeddings=16),
        16,
    ),
    "nomic_bert": (NomicBertModel, NomicBertConfig(len(WORDS), 24, 40, 2, 3, max_position_embeddings=16), 16),
}
TYPED = (
    "albert",
    "big_bird",
    "deberta-v2",
    "gte",
    "jina-bert",
    "jina-v3",
    "longformer",
    "roberta",
    "xlm-roberta",
    "electra",
    "nomic_bert",
)  # families with token types
TEXTS = ["the cat sat on the mat.", "", "dog", "the dog ran far! " * 5]


@pytest.fixture(params=MODELS)
def family(request, tmp_path):
    """(name, folder, model): a sentence model with random weights."""
    nn.manual_seed(0)
    made, config, _ = MODELS[request.param]
    folder = write_sentence_model(tmp_path / "model")
    model = made(config)
    state = model.state_dict()
    model.load_state_dict({name: array * 0.5 if array.ndim > 1 else array for name, array in state.items()})
    model.save_pretrained(folder)
    write_tokenizer(folder, config={"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 20})
    return request.param, folder, model


def test_embeddings_are_the_mean_of_the_model(family):
    name, folder, model = family
    encoder = SentenceEncoder.from_pretrained(folder)
    limit = MODELS[name][2]
    assert encoder.max_seq_length == limit and encoder.get_sentence_embedding_dimension() == 24
    inputs = encoder.tokenize(TEXTS)
    assert inputs["input_ids"].shape == (4, limit) and ("token_type_ids" in inputs) == (name in TYPED)
    hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"]
    expected = hidden.sum(axis=1) / mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    with pytest.raises(ValueError, match=f"needed: 2 to {model.max_length}"):
        encoder.max_seq_length = 10**6


def test_embeddings_are_the_first_state_of_the_model(family, monkeypatch):
    """The pooling "cls", with and without the prompt: one row of each text, which no other text has a say in."""
    _, folder, model = family
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": False}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    encoder = SentenceEncoder.from_pretrained(folder)
    expected = model(**encoder.tokenize(TEXTS)).last_hidden_state[:, 0]
    run, asked = encoder.model.encode_packed, []

    def noted(*arguments, **options):
        asked.append(options)
        return run(*arguments, **options)

    monkeypatch.setattr(encoder.model, "encode_packed", noted)
    got = encoder.encode(TEXTS)
    assert asked == [{"pooled_rows": 0}]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert all(np.array_equal(encoder.encode(text), row) for text, row in zip(TEXTS, got, strict=True))
    # [CLS] and the two tokens of the prompt do not count.
    states = model(**encoder.tokenize([f"the cat {text}" for text in TEXTS])).last_hidden_state[:, 3]
    np.testing.assert_allclose(encoder.encode(TEXTS, prompt="the cat "), states, atol=1e-5)
    # Without [CLS] and [SEP] the empty text has no token, and no state.
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer.json", tokenizer | {"post_processor": None})
    bare = SentenceEncoder.from_pretrained(folder).encode(TEXTS)
    assert not bare[1].any() and bare[[0, 2, 3]].any(axis=1).all()


def test_padding_is_found_under_its_other_name(family):
    _, folder, _ = family
    source = Path(folder) / "tokenizer.json"
    source.write_text(source.read_text(encoding="utf-8").replace("[PAD]", "<pad>"), encoding="utf-8")
    assert SentenceEncoder.from_pretrained(folder).tokenize(TEXTS)["input_ids"][2, -1] == 0


@pytest.mark.oracle
def test_sentence_transformers(family, torch):
    name, folder, model = family
    if name == "jina-bert":
        pytest.skip("transformers has no such class")
    module = pytest.importorskip("sentence_transformers")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MODELS[name][2], "do_lower_case": False})
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 20, "pad_token": "[PAD]"},
    )
    theirs, ours = module.SentenceTransformer(str(folder), device="cpu"), SentenceEncoder.from_pretrained(folder)
    assert ours.max_seq_length == theirs.max_seq_length
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)
