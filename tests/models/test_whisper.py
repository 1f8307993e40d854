"""models/whisper.py against transformers' own numbers (golden); prompts, checkpoints and checks."""

from __future__ import annotations

import numpy as np
import pytest
from seq2seq_golden import GOLDEN, answers, changed, check_forward, check_generate, check_rows, check_saved, inputs

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.whisper import WhisperForConditionalGeneration, WhisperModel

pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")

FEATURES = np.zeros((2, 6, 16), np.float32)
ENGLISH, GERMAN, TRANSCRIBE, TRANSLATE, NO_TIMESTAMPS = 16, 17, 19, 20, 23  # of the golden model


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "whisper")


def prompt(model, **options):
    """What the decoder begins with."""
    encoded = model.encode(FEATURES)
    return model._prepared(
        FEATURES, *(options.pop(n, None) for n in ("language", "task", "prompt_ids")), None, encoded, {}
    )[1]


def test_golden(model, isa):
    assert isinstance(model, WhisperForConditionalGeneration)
    check_forward(model, "whisper")
    check_generate(model, "whisper")


def test_rows(model):
    check_rows(model, "whisper")


def test_saved(model, tmp_path):
    check_saved(model, "whisper", tmp_path / "saved")


def test_without_head(model):
    given = inputs("whisper")
    body = load_model(GOLDEN / "whisper", head=False)
    assert isinstance(body, WhisperModel)
    assert np.array_equal(body(**given).last_hidden_state, model.model(**given).last_hidden_state)


def test_prompt_of_language_and_task(model):
    assert prompt(model, language="de").tolist() == [[1, GERMAN, TRANSCRIBE, NO_TIMESTAMPS]] * 2
    assert prompt(model, language="<|de|>", task="translate").tolist() == [[1, GERMAN, TRANSLATE, NO_TIMESTAMPS]] * 2
    both = prompt(model, language=["en", "de"], task="transcribe")
    assert both[:, 1].tolist() == [ENGLISH, GERMAN]
    heard = model.detect_language(FEATURES)
    assert prompt(model).tolist() == [[1, token, NO_TIMESTAMPS] for token in heard]
    assert prompt(model, language="en", prompt_ids=np.array([3, 4])).tolist()[0][:3] == [3, 4, 1]


@pytest.mark.parametrize("name", ["de", "DE", "german", "German", "<|de|>", "<|DE|>"])
def test_names_of_a_language(tmp_path, model, name):
    expected = [[1, GERMAN, TRANSCRIBE, NO_TIMESTAMPS]] * 2
    assert prompt(model, language=name).tolist() == expected
    assert prompt(model, language=[name, "english"])[:, 1].tolist() == [GERMAN, ENGLISH]
    told = load_model(changed("whisper", tmp_path / "m", generation={"language": name, "task": "transcribe"}))
    assert prompt(told).tolist() == expected
    assert prompt(told, language="en", task="translate").tolist() == [[1, ENGLISH, TRANSLATE, NO_TIMESTAMPS]] * 2


def test_names_that_a_language_has_besides(model):
    names = {"castilian": "es", "flemish": "nl", "haitian creole": "ht", "mandarin": "zh", "cantonese": "yue"}
    known = {f"<|{code}|>": i for i, code in enumerate(names.values())}
    model = load_model(GOLDEN / "whisper")
    model.generation_config["lang_to_id"] = known
    for name, code in names.items():
        assert model._language_ids(name, 1).tolist() == [known[f"<|{code}|>"]]
    with pytest.raises(ValueError, match="language is 'french'; needed: one of es, nl, ht, zh, yue"):
        model.generate(FEATURES, language="french")
    with pytest.raises(TypeError, match="language holds 5"):
        model.generate(FEATURES, language=[5, "de"])


@pytest.mark.parametrize("where", ["config", "generation"])
def test_prompt_of_forced_decoder_ids(tmp_path, where):
    """Settings of older files; null stands for the language that the model hears."""
    for i, language in enumerate((GERMAN, None)):
        fields = {where: {"forced_decoder_ids": [[1, language], [2, TRANSLATE]]}}
        model = load_model(changed("whisper", tmp_path / str(i), **fields))
        heard = model.detect_language(FEATURES) if language is None else [GERMAN] * 2
        assert prompt(model).tolist() == [[1, token, TRANSLATE, NO_TIMESTAMPS] for token in heard]
        assert prompt(model, language="en").tolist()[0] == [1, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS]


def test_suppressed_tokens(tmp_path):
    every = [i for i in range(24) if i != 9]
    generation = {"suppress_tokens": every[:-2], "begin_suppress_tokens": [9]}
    model = load_model(changed("whisper", tmp_path / "m", generation=generation))
    rows = model.generate(FEATURES, language="en", max_new_tokens=5)
    assert rows.shape == (2, 5) and np.isin(rows[:, 0], every[-2:]).all() and np.isin(rows, [9, *every[-2:]]).all()


def test_length_counts_without_the_prompt(model):
    """As in transformers: max_length does not count the prompt here."""
    assert model.generate(FEATURES, language="en", max_length=5, eos_token_id=None).shape[1] == 5
    with pytest.raises(ValueError, match="at most 20"):
        model.generate(FEATURES, max_new_tokens=18)


def test_stream(model):
    features = inputs("whisper")["input_features"]
    whole = model.generate(features, max_new_tokens=8)
    streamed = np.stack(list(model.stream(features, max_new_tokens=8)), axis=1)
    assert np.array_equal(streamed[:, : whole.shape[1]], whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_narrow_caches(model, dtype):
    ids = np.array([[0, 5, 6]])
    _, exact = model.start(input_features=FEATURES[:1], capacity=8, decoder_input_ids=ids)
    _, narrow = model.start(input_features=FEATURES[:1], capacity=8, decoder_input_ids=ids, kv_cache_dtype=dtype)
    wanted, got = (model.step(np.array([7]), state) for state in (exact, narrow))
    assert 0 < np.abs(got - wanted).max() < 0.1 * wanted.std()
    rows = model.generate(FEATURES, language="en", max_new_tokens=5, kv_cache_dtype=dtype)
    assert len(rows) == len(FEATURES)


def test_text_ends_before_the_end(model):
    rows = model._text(np.array([[4, 5, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]]))
    assert rows.tolist() == [[4, 5], [4, 0], [0, 0]]


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"return_timestamps": True}, NotImplementedError, "return_timestamps"),
        ({"language": "klingon"}, ValueError, "language is 'klingon'; needed: one of de, en, fr"),
        ({"language": ["en"]}, ValueError, "language has 1 entries"),
        ({"task": "sing"}, ValueError, "task is 'sing'"),
        ({"prompt_ids": [[3]]}, ValueError, "prompt_ids"),
        ({"input_features": None}, ValueError, "input_features is None"),
        ({"input_features": FEATURES.astype(np.float64)}, TypeError, "float64"),
        ({"input_features": FEATURES[:, :, :15]}, ValueError, r"needed: \(B, 6, 16\)"),
        ({"input_features": FEATURES[0]}, ValueError, r"needed: \(B, 6, 16\)"),
        ({"surprise": 1}, TypeError, "surprise"),
    ],
)
def test_refused_options(model, options, error, text):
    with pytest.raises(error, match=text):
        model.generate(**({"input_features": FEATURES} | options))


def test_settings_that_a_folder_lacks(tmp_path):
    model = load_model(changed("whisper", tmp_path / "m"))
    for name in ("lang_to_id", "task_to_id"):
        del model.generation_config[name]
    assert prompt(model).tolist() == [[1, NO_TIMESTAMPS]] * 2
    with pytest.raises(ValueError, match="language needs lang_to_id"):
        model.generate(FEATURES, language="en")
    model.generation_config["is_multilingual"] = False
    with pytest.raises(ValueError, match="English only"):
        model.generate(FEATURES, task="translate")
    model.generation_config["forced_decoder_ids"] = [[2, 5]]
    with pytest.raises(ValueError, match="forced_decoder_ids"):
        model.generate(FEATURES)


@pytest.mark.parametrize(
    "field, value",
    [
        ("is_encoder_decoder", False),
        ("is_decoder", True),
        ("quantization_config", {"bits": 8}),
        ("activation_function", "mish"),
        ("encoder_attention_heads", 3),
        ("encoder_layers", 4),
        ("num_mel_bins", 0),
    ],
)
def test_refused_config(tmp_path, field, value):
    with pytest.raises(CheckpointError, match=field):
        load_model(changed("whisper", tmp_path / "m", {field: value}))


def test_head_of_its_own_and_ignored_heads(tmp_path):
    def change(weights):
        weights["proj_out.weight"] = 2 * weights["model.decoder.embed_tokens.weight"]

    given = inputs("whisper")
    model = load_model(changed("whisper", tmp_path / "m", change=change))
    np.testing.assert_allclose(model(**given).logits, 2 * answers("whisper")["logits"], atol=2e-5, rtol=0)
    load_model(tmp_path / "m", head=False)
    with pytest.raises(CheckpointError, match="extra"):
        load_model(changed("whisper", tmp_path / "n", change=lambda w: w.update(extra=np.zeros(1, np.float32))))
