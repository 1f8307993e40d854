"""`text_attention`: the weights of the model's own call, with the tokens as they stand in the texts."""

from __future__ import annotations

import numpy as np
import pytest
import text_decoders
from model_folders import write_sentence_model

from transformer_fast import load_model, visualize
from transformer_fast.models import T5ForConditionalGeneration
from transformer_fast.pipelines import SentenceEncoder, text_attention
from transformer_fast.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SentenceEncoder.from_pretrained(write_sentence_model(tmp_path_factory.mktemp("encoder") / "model"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = text_decoders.write_model(tmp_path_factory.mktemp("decoder"), "qwen3", "ForCausalLM")
    return load_model(folder), load_tokenizer(folder)


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translator")
    text_decoders.write_model(folder, "t5", "ForConditionalGeneration", decoder_start_token_id=0)
    return load_model(folder), load_tokenizer(folder)


def assert_rows_sum_to_one(attentions, Lq, Lk):
    for layer in attentions:
        assert layer.shape[1:] == (Lq, Lk)
        np.testing.assert_allclose(layer.sum(-1), 1, atol=1e-5)


def test_encoder(encoder):
    attentions, tokens = text_attention(encoder.model, encoder.tokenizer, "The cat is near")["self-attention"]
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens[1:3] == ["The", "cat"]
    assert "".join(tokens[1:-1]) == "Thecatisnear"
    ids = np.array([encoder.tokenizer.encode("The cat is near").ids])
    for layer, expected in zip(attentions, encoder.model(ids, output_attentions=True).attentions, strict=True):
        np.testing.assert_array_equal(layer, expected[0])


def test_encoder_reads_a_pair_with_its_types(encoder):
    attentions, tokens = text_attention(encoder.model, encoder.tokenizer, "the cat", "dog ran")["self-attention"]
    assert tokens == ["[CLS]", "the", "cat", "[SEP]", "dog", "ran", "[SEP]"]
    encoding = encoder.tokenizer.encode("the cat", "dog ran")
    found = encoder.model(
        np.array([encoding.ids]), token_type_ids=np.array([encoding.type_ids]), output_attentions=True
    )
    np.testing.assert_array_equal(attentions[1], found.attentions[1][0])
    assert visualize.explore({"pair": (attentions, tokens)}).data["maps"][0]["special_queries"] == [0, 3, 6]


def test_decoder_looks_back_alone(decoder):
    attentions, tokens = text_attention(*decoder, "the cat ran")["self-attention"]
    assert tokens == ["the", "cat", "ran", "[SEP]"]
    assert_rows_sum_to_one(attentions, 4, 4)
    assert not any(np.triu(layer, 1).any() for layer in attentions)


def test_encoder_decoder_has_three_kinds(translator):
    assert isinstance(translator[0], T5ForConditionalGeneration)
    maps = text_attention(*translator, "the cat ran", "the dog")
    assert list(maps) == ["encoder", "decoder", "cross-attention"]
    assert maps["encoder"][1] == ["the", "cat", "ran", "[SEP]"]
    assert maps["decoder"][1] == ["[PAD]", "the", "dog"], "starts with decoder_start_token_id, ends before [SEP]"
    assert maps["cross-attention"][1:] == (maps["decoder"][1], maps["encoder"][1])
    assert_rows_sum_to_one(maps["cross-attention"][0], 3, 4)
    assert [entry["self_attention"] for entry in visualize.explore(maps).data["maps"]] == [True, True, False]


def test_texts_that_do_not_fit_are_refused_by_name(encoder, decoder, translator):
    with pytest.raises(ValueError, match="text_pair is given, but a Qwen3ForCausalLM reads one text"):
        text_attention(*decoder, "a", "b")
    with pytest.raises(ValueError, match="text_pair is None; needed: the text that the decoder"):
        text_attention(*translator, "a")
    with pytest.raises(ValueError, match="text has 4 tokens; needed: at most 3"):
        text_attention(*decoder, "the cat ran", max_tokens=3)
    with pytest.raises(ValueError, match="text has more than 20 tokens, the most that the model takes"):
        text_attention(encoder.model, encoder.tokenizer, "the cat " * 20)
    _, tokens = text_attention(encoder.model, encoder.tokenizer, "the cat " * 20, truncate=True)["self-attention"]
    assert len(tokens) == 20
