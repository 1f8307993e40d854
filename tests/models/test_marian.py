"""models/marian.py against transformers' own numbers (golden); its checkpoints and its checks."""

from __future__ import annotations

import numpy as np
import pytest
from seq2seq_golden import GOLDEN, changed, check_forward, check_generate, check_rows, check_saved, inputs

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.marian import MarianModel, MarianMTModel

pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "marian")


def test_golden(model):
    assert isinstance(model, MarianMTModel)
    check_forward(model, "marian")
    check_generate(model, "marian")


def test_rows(model):
    check_rows(model, "marian")


def test_saved(model, tmp_path):
    check_saved(model, "marian", tmp_path / "saved")


def test_without_head(model):
    given = inputs("marian")
    body = load_model(GOLDEN / "marian", head=False)
    assert isinstance(body, MarianModel)
    assert np.array_equal(body(**given).last_hidden_state, model.model(**given).last_hidden_state)


def test_ignored_tensors(tmp_path):
    """Old files hold the sinusoids; they are computed."""

    def change(weights):
        for stack in ("encoder", "decoder"):
            weights[f"model.{stack}.embed_positions.weight"] = np.full((16, 8), np.nan, np.float32)
            weights[f"model.{stack}.embed_tokens.weight"] = weights["model.shared.weight"].copy()

    check_forward(load_model(changed("marian", tmp_path / "m", change=change)), "marian")


def test_tables_of_two_languages(tmp_path):
    def split(weights):
        shared = weights.pop("model.shared.weight")
        weights["model.encoder.embed_tokens.weight"] = shared
        weights["model.decoder.embed_tokens.weight"] = shared[:20]
        weights["final_logits_bias"] = weights["final_logits_bias"][:, :20]

    config = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 20}
    model = load_model(changed("marian", tmp_path / "m", config, split))
    whole = load_model(GOLDEN / "marian")
    given = inputs("marian")
    np.testing.assert_allclose(model(**given).logits, whole(**given).logits[:, :, :20], atol=1e-6)
    with pytest.raises(IndexError, match="decoder_input_ids"):
        model(given["input_ids"], decoder_input_ids=[[20], [0], [0]])
    with pytest.raises(CheckpointError, match="encoder.embed_tokens"):
        load_model(changed("marian", tmp_path / "other", {"share_encoder_decoder_embeddings": False}))


@pytest.mark.parametrize(
    "field, value",
    [
        ("normalize_before", True),
        ("normalize_embedding", True),
        ("static_position_embeddings", False),
        ("is_encoder_decoder", False),
        ("quantization_config", {"bits": 8}),
        ("activation_function", "mish"),
        ("encoder_attention_heads", 3),
        ("decoder_vocab_size", -1),
        ("decoder_layers", 4),
    ],
)
def test_refused_config(tmp_path, field, value):
    with pytest.raises(CheckpointError, match=field):
        load_model(changed("marian", tmp_path / "m", {field: value}))


def test_needs_decoder_ids(model):
    with pytest.raises(ValueError, match="decoder_input_ids is None"):
        model([[3, 4]])
