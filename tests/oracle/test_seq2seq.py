"""Live comparisons (marker `oracle`): T5, LongT5, BART, Marian and Whisper with transformers' eager float32, and
log-mel features. What they found once stands in golden/seq2seq for suites without torch."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from seq2seq_models import (
    VOCAB,
    long_inputs,
    make_bart,
    make_led,
    make_longt5,
    make_marian,
    make_mt5,
    make_t5,
    make_whisper,
    sound,
    speech_inputs,
    text_inputs,
    zeroed,
)

from transformer_fast import load_model
from transformer_fast.files.sound import WhisperFeatureExtractor

ml_dtypes = pytest.importorskip("ml_dtypes")
safetensors = pytest.importorskip("safetensors.numpy")
load_file, save_file = safetensors.load_file, safetensors.save_file

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-5
# Hidden states of T5 are sums that no norm has passed: 1e-5 of one that is 8 is ten of its last places. Of such an
# element (random weights, scores that T5 does not scale) ours differed from float64 by 1.04e-5 at level avx2, torch by
# 0.4e-5.
RELATIVE = 1e-6
MODELS = {
    "t5": (make_t5, {}),
    "t5-silu-fewer-decoder-layers": (
        make_t5,
        {"feed_forward_proj": "silu", "num_layers": 3, "num_decoder_layers": 1, "relative_attention_num_buckets": 12},
    ),
    "t5-gated-gelu": (make_t5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5-gated-relu": (make_t5, {"feed_forward_proj": "gated-relu", "num_heads": 3, "d_kv": 4}),
    "t5-default-buckets": (
        make_t5,
        {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-3},
    ),
    "mt5": (make_mt5, {}),
    "longt5": (make_longt5, {}),
    "longt5-local": (make_longt5, {"encoder_attention_type": "local", "feed_forward_proj": "gated-gelu"}),
    "longt5-wide": (make_longt5, {"local_radius": 30, "global_block_size": 7, "feed_forward_proj": "silu"}),
    "longt5-single": (make_longt5, {"local_radius": 0, "global_block_size": 1, "num_decoder_layers": 1}),
    "longt5-no-block": (
        make_longt5,
        {"local_radius": 6, "global_block_size": 24, "num_heads": 3, "tie_word_embeddings": False},
    ),
    "bart": (make_bart, {}),
    "bart-scaled": (make_bart, {"scale_embedding": True, "activation_function": "relu", "encoder_layers": 2}),
    "bart-heads": (make_bart, {"d_model": 12, "encoder_attention_heads": 3, "decoder_attention_heads": 4}),
    "bart-settings": (make_bart, {"settings": {"forced_bos_token_id": 0, "min_length": 6, "repetition_penalty": 1.4}}),
    "led": (make_led, {}),
    "led-windows": (make_led, {"attention_window": [4, 8], "encoder_layers": 2, "activation_function": "relu"}),
    "marian": (make_marian, {"activation_function": "swish"}),
    "marian-scaled": (make_marian, {"scale_embedding": True, "encoder_layers": 2, "decoder_layers": 1}),
    "marian-two-languages": (make_marian, {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 21}),
    "whisper": (make_whisper, {}),
    "whisper-english": (make_whisper, {"settings": {"suppress_tokens": [4, 5], "no_timestamps_token_id": VOCAB - 1}}),
    "whisper-layers": (
        make_whisper,
        {"encoder_layers": 3, "decoder_attention_heads": 4, "activation_function": "relu"},
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """(transformers' model, ours, inputs)."""
    make, options = MODELS[request.param]
    theirs = make(**options)
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    special = {"whisper": speech_inputs, "longt5": long_inputs}
    inputs = special.get(request.param.split("-")[0], text_inputs)
    return theirs, load_model(folder), inputs()


def tensors(torch, arrays):
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()}


def arrays(value):
    return [one.numpy() for one in value] if isinstance(value, tuple) else [value.numpy()]


def test_forward(torch, pair, isa):
    theirs, ours, inputs = pair
    unmasked = {name: value for name, value in inputs.items() if "mask" not in name}
    for given in (inputs, unmasked):
        with torch.no_grad():
            expected = theirs(**tensors(torch, given), output_attentions=True, output_hidden_states=True)
        output = ours(**given, output_attentions=True, output_hidden_states=True)
        # transformers 5.24 calls past_key_values cache.
        names = [name for name in expected.keys() if name not in ("past_key_values", "cache")]
        assert output.keys() == names
        for name in names:
            got = output[name] if isinstance(output[name], tuple) else (output[name],)
            for one, other in zip(got, arrays(expected[name]), strict=True):
                np.testing.assert_allclose(one, zeroed(name, other, given), atol=TOLERANCE, rtol=RELATIVE, err_msg=name)


SEARCHES = [
    {"max_new_tokens": 9},
    {"max_length": 7},
    {"max_new_tokens": 9, "num_beams": 4},
    {"max_new_tokens": 9, "num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"max_new_tokens": 9, "num_beams": 2, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
]


@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_generate(torch, pair, options):
    theirs, ours, inputs = pair
    given = {name: value for name, value in inputs.items() if not name.startswith("decoder")}
    with torch.no_grad():
        expected = theirs.generate(**tensors(torch, given), **options).numpy()
    assert np.array_equal(ours.generate(**given, **options), expected)


def test_generate_from_decoder_ids_and_several_results(torch, pair):
    theirs, ours, inputs = pair
    if "input_features" in inputs:
        pytest.skip("Whisper's prompts have a test of their own")
    given = {name: value for name, value in inputs.items() if name != "decoder_attention_mask"}
    for options in ({"max_new_tokens": 5}, {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 3}):
        with torch.no_grad():
            expected = theirs.generate(**tensors(torch, given), **options).numpy()
        assert np.array_equal(ours.generate(**given, **options), expected)


@pytest.mark.parametrize(
    "settings",
    [{}, {"forced_decoder_ids": [[1, None], [2, 19]]}, {"forced_decoder_ids": [[1, 17], [2, 20]]}, {"language": "fr"}],
    ids=str,
)
def test_prompts_of_whisper(torch, tmp_path, settings):
    languages = {
        "lang_to_id": {"<|en|>": 16, "<|de|>": 17, "<|fr|>": 18},
        "task_to_id": {"transcribe": 19, "translate": 20},
        "no_timestamps_token_id": VOCAB - 1,
        "is_multilingual": True,
        "max_length": 10,
    }
    theirs = make_whisper(languages | settings)
    theirs.save_pretrained(tmp_path / "m")
    ours = load_model(tmp_path / "m")
    given = {"input_features": speech_inputs()["input_features"]}
    choices = itertools.product(
        [None, "de", "German", "<|fr|>", ["en", "french", "de"]], [None, "transcribe", "translate"]
    )
    for language, task in choices:
        options = {"language": language, "task": task}
        for more in ({}, {"num_beams": 2}, {"prompt_ids": np.array([3, 4])}):
            with torch.no_grad():
                expected = theirs.generate(**tensors(torch, given | options | more)).numpy()
            assert np.array_equal(ours.generate(**given, **options, **more), expected), (options, more)


@pytest.mark.parametrize("language", ["french", "French", "fr", "<|fr|>"])
def test_language_of_a_folder(torch, tmp_path, language):
    """As fine-tuning recipes write it into generation_config.json."""
    languages = {"lang_to_id": {"<|en|>": 16, "<|de|>": 17, "<|fr|>": 18}, "no_timestamps_token_id": VOCAB - 1}
    languages |= {"task_to_id": {"transcribe": 19, "translate": 20}, "is_multilingual": True, "max_length": 10}
    theirs = make_whisper(languages | {"language": language, "task": "translate"})
    theirs.save_pretrained(tmp_path)
    given = {"input_features": speech_inputs()["input_features"]}
    with torch.no_grad():
        expected = theirs.generate(**tensors(torch, given)).numpy()
    assert np.array_equal(load_model(tmp_path).generate(**given), expected)


def test_settings_of_a_processor(torch, tmp_path):
    """What transformers 5 saves of Whisper's preprocessing, which stands in the processor's file alone."""
    import transformers
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<|endoftext|>": 0}, "<|endoftext|>")).save(str(tmp_path / "tokenizer.json"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    theirs = transformers.WhisperFeatureExtractor(chunk_length=2, feature_size=20)
    (tmp_path / "p").mkdir()
    content = {"processor_class": "WhisperProcessor", "feature_extractor": theirs.to_dict()}
    try:
        transformers.WhisperProcessor(theirs, tokenizer).save_pretrained(tmp_path / "p")
    except (TypeError, ValueError):  # it asks for a tokenizer of its own class
        (tmp_path / "p" / "processor_config.json").write_text(json.dumps(content))
    assert not (tmp_path / "p" / "preprocessor_config.json").exists()
    ours = WhisperFeatureExtractor.from_pretrained(tmp_path / "p")
    expected = theirs(sound(1.5), sampling_rate=16000, return_tensors="np").input_features
    np.testing.assert_allclose(ours(sound(1.5))["input_features"], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [make_t5, make_mt5])
def test_files_of_the_first_version_1_1(torch, tmp_path, make):
    """They hold an lm_head of its own, and their config.json knows no scale_decoder_outputs."""
    theirs = make(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("scale_decoder_outputs", None)
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = np.random.default_rng(0).standard_normal((VOCAB, 8)).astype(np.float32)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    theirs = type(theirs).from_pretrained(tmp_path, attn_implementation="eager")
    inputs = text_inputs()
    with torch.no_grad():
        expected = theirs(**tensors(torch, inputs)).logits.numpy()
    got = load_model(tmp_path)(**inputs).logits
    np.testing.assert_allclose(got, zeroed("logits", expected, inputs), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("buckets, distance", [(4, 3), (8, 10), (32, 128), (32, 129), (64, 1000), (10, 77)])
def test_buckets_far_away(torch, buckets, distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    from transformer_fast.nn import relative_position_bucket

    distances = np.arange(-3000, 3001)
    for both in (True, False):
        expected = T5Attention._relative_position_bucket(torch.from_numpy(distances), both, buckets, distance).numpy()
        assert np.array_equal(relative_position_bucket(distances, both, buckets, distance), expected)


@pytest.mark.parametrize("size", [1, 3, 7, 16, 20, 100])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 5000])
def test_block_ids_of_longt5(torch, length, size):
    """Also where transformers' float32 rounds a column into another block, as for 100 in long rows."""
    from transformers.models.longt5.modeling_longt5 import _make_global_fixed_block_ids

    from transformer_fast.models.common.local_attention import block_ids

    tokens = np.random.default_rng(length).random((5, length)) < 0.9
    tokens[0], tokens[1, : length // 2], tokens[2, length // 3 :], tokens[3] = True, False, False, False
    for mask in (tokens.astype(np.int64), tokens.astype(np.float32)):
        ids, exists = _make_global_fixed_block_ids(torch.from_numpy(mask), size)
        found = block_ids(tokens, size)
        assert np.array_equal(found, ids.numpy())
        # A row's side tokens are the first ones, and as many as its largest id says.
        counts = np.minimum(found.max(axis=1) + 1, length // size)
        assert np.array_equal(exists.numpy(), np.arange(length // size) < counts[:, None])


@pytest.mark.parametrize(
    "settings", [{}, {"feature_size": 128}, {"chunk_length": 2, "hop_length": 100, "n_fft": 256}], ids=str
)
def test_features(torch, settings):
    from transformers import WhisperFeatureExtractor as Theirs

    theirs, ours = Theirs(**settings), WhisperFeatureExtractor(**settings)
    np.testing.assert_allclose(ours.mel_filters, theirs.mel_filters, atol=1e-12)
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(40000)).astype(np.float32)
    for samples in (noise, sound(1.5), np.zeros(10, np.float32), [sound(0.5), noise]):
        expected = theirs(samples, sampling_rate=16000, return_tensors="np").input_features
        np.testing.assert_allclose(ours(samples)["input_features"], expected, atol=1e-4, rtol=0)
