"""models/bart.py against transformers' own numbers (golden); its checkpoints and its checks."""

from __future__ import annotations

import numpy as np
import pytest
from seq2seq_golden import (
    GOLDEN,
    TOLERANCE,
    answers,
    changed,
    check_forward,
    check_generate,
    check_rows,
    check_saved,
    inputs,
)

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.bart import BartConfig, BartForConditionalGeneration, BartModel

pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "bart")


def test_golden(model, isa):
    assert isinstance(model, BartForConditionalGeneration)
    check_forward(model, "bart")
    check_generate(model, "bart")


def test_rows(model):
    check_rows(model, "bart")


def test_saved(model, tmp_path):
    check_saved(model, "bart", tmp_path / "saved")


def test_without_head(tmp_path):
    given = inputs("bart")
    expected = answers("bart")["decoder_hidden_states"][-1] * given["decoder_attention_mask"][:, :, None]
    model = load_model(GOLDEN / "bart", head=False)
    assert isinstance(model, BartModel)
    np.testing.assert_allclose(model(**given).last_hidden_state, expected, atol=TOLERANCE, rtol=0)
    model.save_pretrained(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert isinstance(again, BartModel)
    assert np.array_equal(again(**given).last_hidden_state, model(**given).last_hidden_state)


def test_default_target_is_the_source_moved(model):
    ids = inputs("bart")["input_ids"]
    moved = np.concatenate([np.full((3, 1), 2), ids[:, :-1]], axis=1)
    assert np.array_equal(model(ids).logits, model(ids, decoder_input_ids=moved).logits)


def test_generation_config_of_the_folder_counts(tmp_path):
    ids = inputs("bart")["input_ids"]
    model = load_model(changed("bart", tmp_path / "m", generation={"forced_bos_token_id": 7, "max_length": 6}))
    rows = model.generate(ids)
    assert rows.shape == (3, 6) and (rows[:, 1] == 7).all() and (rows[:, -1] == 2).all()


def test_everything_is_a_token_without_a_mask(model):
    """As in transformers, which guesses a mask from the padding id for decoders alone."""
    ids, mask = inputs("bart")["input_ids"].copy(), inputs("bart")["attention_mask"]
    ids[mask == 0] = 1
    every = model.generate(ids, np.ones_like(mask), max_new_tokens=6)
    assert np.array_equal(model.generate(ids, max_new_tokens=6), every)


def test_copies_of_the_shared_table(tmp_path):
    """Files may hold the shared table several times, or under another name; its own tensor counts for each part."""

    def copied(weights):
        shared = weights["model.shared.weight"]
        names = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
        weights.update({name: shared.copy() for name in names})

    def renamed(weights):
        copied(weights)
        for name in ("model.shared.weight", "model.encoder.embed_tokens.weight", "lm_head.weight"):
            del weights[name]

    for i, change in enumerate((copied, renamed)):
        check_forward(load_model(changed("bart", tmp_path / str(i), change=change)), "bart")


def test_head_of_its_own(tmp_path):
    def untied(weights):
        weights["lm_head.weight"] = 2 * weights["model.shared.weight"]

    model = load_model(changed("bart", tmp_path / "m", {"tie_word_embeddings": False}, untied))
    bias = model.final_logits_bias
    rows = inputs("bart")["decoder_attention_mask"].astype(bool)
    expected = 2 * (answers("bart")["logits"] - bias) + bias
    np.testing.assert_allclose(model(**inputs("bart")).logits[rows], expected[rows], atol=2 * TOLERANCE, rtol=0)
    with pytest.raises(CheckpointError, match="lm_head.weight"):
        load_model(changed("bart", tmp_path / "missing", {"tie_word_embeddings": False}))


def test_without_logits_bias(tmp_path):
    model = load_model(changed("bart", tmp_path / "m", change=lambda w: w.pop("final_logits_bias")))
    assert model.final_logits_bias is None
    bias = load_model(GOLDEN / "bart").final_logits_bias
    rows = inputs("bart")["decoder_attention_mask"].astype(bool)
    expected = answers("bart")["logits"] - bias
    np.testing.assert_allclose(model(**inputs("bart")).logits[rows], expected[rows], atol=TOLERANCE, rtol=0)


def test_ignored_tensors(tmp_path):
    def change(weights):
        weights |= {"model.encoder.version": np.zeros(1, np.float32), "model.decoder.version": np.zeros(1, np.float32)}

    check_forward(load_model(changed("bart", tmp_path / "m", change=change)), "bart")


@pytest.mark.parametrize(
    "field, value",
    [
        ("normalize_before", True),
        ("normalize_embedding", False),
        ("add_final_layer_norm", True),
        ("static_position_embeddings", True),
        ("is_encoder_decoder", False),
        ("is_decoder", True),
        ("quantization_config", {"bits": 8}),
        ("activation_function", "mish"),
        ("decoder_attention_heads", 3),
        ("encoder_layers", 0),
        ("encoder_layers", 2),
        ("decoder_layers", 3),
        ("scale_embedding", "yes"),
    ],
)
def test_refused_config(tmp_path, field, value):
    with pytest.raises(CheckpointError, match=field):
        load_model(changed("bart", tmp_path / "m", {field: value}))


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda w: w.pop("model.decoder.layers.1.fc1.bias"), "model.decoder.layers.1.fc1.bias|decoder.layers.1.fc1"),
        (lambda w: w.update({"model.decoder.extra": np.zeros(2, np.float32)}), "model.decoder.extra"),
        (lambda w: w.update({"final_logits_bias": np.zeros((1, 5), np.float32)}), "final_logits_bias"),
        (lambda w: w.update({"model.encoder.embed_positions.weight": np.zeros((16, 8), np.float32)}), "embed_pos"),
    ],
)
def test_refused_tensors(tmp_path, change, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(changed("bart", tmp_path / "m", change=change))


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({"input_ids": [[1.5]]}, TypeError, "input_ids"),
        ({"input_ids": [1, 2]}, ValueError, "input_ids"),
        ({"input_ids": [[24]]}, IndexError, "input_ids"),
        ({"input_ids": [[3] * 17]}, ValueError, "max_position_embeddings=16"),
        ({"input_ids": None, "decoder_input_ids": [[3]]}, ValueError, "input_ids is None"),
        ({"input_ids": [[3]], "attention_mask": [[1, 1]]}, ValueError, "attention_mask"),
        ({"input_ids": [[3]], "decoder_input_ids": [[3], [4]]}, ValueError, "decoder_input_ids has 2 rows"),
        ({"input_ids": [[3]], "decoder_input_ids": [[-1]]}, IndexError, "decoder_input_ids"),
        (
            {"encoder_outputs": np.zeros((1, 2, 9), np.float32), "decoder_input_ids": [[3]]},
            ValueError,
            "encoder_outputs",
        ),
        ({"encoder_outputs": np.zeros((1, 2, 8)), "decoder_input_ids": [[3]]}, ValueError, "encoder_outputs"),
    ],
)
def test_bad_input(model, arguments, error, text):
    with pytest.raises(error, match=text):
        model(**arguments)


def test_generation_beyond_the_positions(model):
    with pytest.raises(ValueError, match="at most 16"):
        model.generate([[3, 4]], max_new_tokens=20, eos_token_id=None, forced_eos_token_id=None)


def test_fresh_model():
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 8, "encoder_ffn_dim": 9, "decoder_ffn_dim": 9}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 11}
    model = BartForConditionalGeneration(BartConfig(**sizes, **heads, max_position_embeddings=5))
    assert model([[3, 4]]).logits.shape == (1, 2, 11)
