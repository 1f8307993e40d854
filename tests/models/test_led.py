"""models/led.py against transformers' own numbers (golden); its checkpoints and its checks."""

from __future__ import annotations

import numpy as np
import pytest
from seq2seq_golden import GOLDEN, check_forward, check_generate, check_rows, check_saved, inputs

from transformer_fast import load_model
from transformer_fast.models.led import LEDConfig, LEDForConditionalGeneration, LEDModel

pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "led")


def test_golden(model, isa):
    assert isinstance(model, LEDForConditionalGeneration)
    check_forward(model, "led")
    check_generate(model, "led")


def test_rows(model):
    check_rows(model, "led")


def test_saved(model, tmp_path):
    check_saved(model, "led", tmp_path / "saved")


def test_global_tokens_change_the_encoder(model):
    given = {name: value for name, value in inputs("led").items() if not name.startswith("decoder")}
    found = model.encode(**given, output_attentions=True)
    assert len(found.attentions) == model.config.encoder_layers
    none = model.encode(given["input_ids"], given["attention_mask"])
    assert not np.allclose(found.last_hidden_state, none.last_hidden_state, atol=1e-3)
    assert isinstance(load_model(GOLDEN / "led", head=False), LEDModel)


def test_other_families_know_no_global_tokens():
    bart = load_model(GOLDEN / "bart")
    with pytest.raises(
        TypeError, match="generate.. got global_attention_mask, which BartForConditionalGeneration does"
    ):
        bart.generate([[3, 4]], global_attention_mask=[[1, 0]])


@pytest.mark.parametrize(
    "fields", [{"attention_window": 5}, {"attention_window": [4]}, {"d_model": 30}, {"activation_function": "mish"}]
)
def test_what_is_refused(fields):
    with pytest.raises(ValueError, match="(needed|supported): "):
        LEDConfig(**fields)
