"""One model in several Python threads: every kind of model and every way of calling it gives the bits of one thread.

What many threads do with the ops is tested in contracts/test_threads.py, with pipelines in pipelines/test_threads.py.
"""

from __future__ import annotations

from pathlib import Path

import decoder_cases
import numpy as np
import pytest
from seq2seq_golden import GOLDEN as SEQ2SEQ
from threads import FEW, MANY, storm

from transformer_fast import load_model, nn
from transformer_fast.models.gemma2 import Gemma2ForCausalLM
from transformer_fast.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformer_fast.nn import init

pytest.importorskip("safetensors")

GOLDEN = Path(__file__).parent.parent / "golden"
ENCODERS = sorted(path.name for path in (GOLDEN / "encoders").iterdir())
TURNS = [FEW, pytest.param(MANY, marks=pytest.mark.stress)]


def token_ids(B, L, limit=30, seed=0):
    return np.random.default_rng([seed, B, L]).integers(5, limit, (B, L))


def padding(B, L):
    return (np.arange(L) < L - np.arange(B)[:, None]).astype(np.int64)


def pixels(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def encoder_calls(model):
    one, several = token_ids(1, 9), token_ids(3, 7, seed=1)
    return [
        lambda: model(one),
        lambda: model(several, padding(3, 7)),
        lambda: model(several, padding(3, 7), output_attentions=True, output_hidden_states=True),
        lambda: model(token_ids(6, 5)),
        lambda: model.base.encode_packed(one[0], np.array([0, 4, 9])),
    ]


def language_model_calls(model):
    ids, row = token_ids(3, 6), token_ids(1, 4, seed=2)
    mask = padding(3, 6)[:, ::-1]
    options = {"max_new_tokens": 7, "eos_token_id": 7, "pad_token_id": 1}

    def continued():
        first = model(row, use_cache=True)
        return [first.logits, model(row, past_key_values=first.past_key_values, use_cache=True).logits]

    return [
        lambda: model(ids, mask),
        continued,
        lambda: model.generate(ids, mask, **options),
        lambda: model.generate(ids, mask, num_beams=3, num_return_sequences=2, **options),
        lambda: model.generate(row, do_sample=True, seed=3, top_k=9, num_return_sequences=3, **options),
        lambda: list(model.stream(ids, mask, repetition_penalty=1.3, **options)),
    ]


def writer_calls(model):
    ids, mask = token_ids(3, 7, 20), padding(3, 7)
    options = {"max_new_tokens": 6, "pad_token_id": 1}
    return [
        lambda: model(ids, mask, token_ids(3, 4, 20)),
        lambda: model.encode(ids, mask),
        lambda: model.generate(ids, mask, **options),
        lambda: model.generate(ids, mask, num_beams=3, num_return_sequences=2, **options),
        lambda: model.generate(ids, mask, num_beams=2, do_sample=True, seed=5, **options),
        lambda: list(model.stream(ids[:1], **options)),
    ]


def speech_calls(model):
    features = pixels(2, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    return [
        lambda: model.generate(features, language="de", max_new_tokens=6),
        lambda: model.generate(features, language="english", task="translate", num_beams=2, max_new_tokens=6),
        lambda: model.generate(features, max_new_tokens=4),
        lambda: model.detect_language(features),
    ]


def picture_calls(model):
    size = model.config.image_size
    return [lambda: model(pixels(1, 3, size, size)), lambda: model(pixels(5, 3, size, size))]


def clip_calls(model):
    size = model.config.vision_config.image_size
    ids = token_ids(3, 6)
    ids[:, -1] = model.config.text_config.eos_token_id
    pictures = pixels(2, 3, size, size)
    return [
        lambda: model(ids, pictures),
        lambda: model.get_text_features(ids),
        lambda: model.get_image_features(pictures),
        lambda: model.get_text_features(ids[:1, 2:]),
    ]


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, turns):
    storm(lambda: encoder_calls(load_model(GOLDEN / "encoders" / name)), turns)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize(
    "case", ["gpt2", "llama", "mistral", "qwen2_windows", "qwen3", "gemma2", "gemma3", "phi3", "gpt_oss"]
)
def test_decoders(tmp_path, case, turns):
    folder = decoder_cases.write(tmp_path, case)
    storm(lambda: language_model_calls(load_model(folder)), turns)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", ["bart", "marian", "t5", "whisper"])
def test_encoder_decoders(name, turns):
    calls = speech_calls if name == "whisper" else writer_calls
    storm(lambda: calls(load_model(SEQ2SEQ / name)), turns)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", ["vit", "deit", "clip"])
def test_models_of_pictures(name, turns):
    calls = clip_calls if name == "clip" else picture_calls
    storm(lambda: calls(load_model(GOLDEN / name)), turns)


# ----------------------------------------------------------------------------------------------------------------------
# Modules


def attention_calls():
    module = nn.MultiheadAttention(24, 3, batch_first=True)
    x = pixels(3, 7, 24)
    hidden = np.arange(7) >= np.array([[7], [4], [6]])

    def cached():
        cache = nn.KeyValueCache(2, 3, 8, 16)
        return [shared(x[:2, :4], cache=cache, is_causal=True), shared(x[:2, 4:5], cache=cache, is_causal=True)]

    shared = nn.SelfAttention(24, 3)
    return [
        lambda: module(x, x, x),
        lambda: module(x, x[:, ::-1], x, key_padding_mask=hidden, average_attn_weights=False),
        lambda: module(x, x, x, is_causal=True, attn_mask=np.triu(np.ones((7, 7), bool), 1), need_weights=False),
        cached,
    ]


def layer_calls():
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 3, 40, batch_first=True), 2)
    both = nn.Transformer(24, 3, 1, 2, 40, batch_first=True)
    lstm, gru = nn.LSTM(24, 16, bidirectional=True, num_layers=2), nn.GRU(24, 16)
    convolution = nn.Conv1d(7, 5, 3)
    x = pixels(3, 7, 24)
    hidden = np.arange(7) >= np.array([[7], [4], [6]])
    return [
        lambda: stack(x),
        lambda: stack(x, src_key_padding_mask=hidden),
        lambda: stack(x, is_causal=True, mask=np.triu(np.ones((7, 7), bool), 1)),
        lambda: both(x, x[:, :4]),
        lambda: lstm(x),
        lambda: gru(x),
        lambda: convolution(x),
    ]


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("calls", [attention_calls, layer_calls])
def test_modules(calls, turns):
    def made():
        init.manual_seed(5)
        return calls()

    storm(made, turns)


# ----------------------------------------------------------------------------------------------------------------------
# What instances and callers share


def test_defaults_of_one_model_are_not_those_of_another():
    config = GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    one, other = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    one.generation_config["max_new_tokens"] = 3
    assert "max_new_tokens" not in other.generation_config
    assert "max_new_tokens" not in GPT2LMHeadModel.generation_config
    assert Gemma2ForCausalLM.generation_config["pad_token_id"] == 0


def test_a_generation_does_not_change_the_defaults(tmp_path):
    model = load_model(decoder_cases.write(tmp_path, "gpt2"))
    before = dict(model.generation_config)
    model.generate(token_ids(2, 4), num_beams=2, max_new_tokens=3, eos_token_id=None)
    assert model.generation_config == before
