"""models/t5.py against transformers' own numbers (golden): T5 and v1.1; its checkpoints and its checks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from seq2seq_golden import GOLDEN, TOLERANCE, answers, changed, check_forward, check_generate, check_rows, check_saved
from seq2seq_golden import inputs as golden_inputs

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.t5 import (
    MT5ForConditionalGeneration,
    MT5Model,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Model,
)

pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module", params=["t5", "t5_gated"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return load_model(GOLDEN / name)


def test_golden(model, name, isa):
    assert isinstance(model, T5ForConditionalGeneration)
    assert model.config.scale_decoder_outputs == (name == "t5")
    check_forward(model, name)
    check_generate(model, name)


def test_rows(model, name):
    check_rows(model, name)


def test_saved(model, name, tmp_path):
    check_saved(model, name, tmp_path / "saved")


def test_without_head(model, name):
    given = golden_inputs(name)
    body = load_model(GOLDEN / name, head=False)
    assert isinstance(body, T5Model)
    assert np.array_equal(body(**given).last_hidden_state, model.model(**given).last_hidden_state)


def test_encoder_alone(name, tmp_path):
    """Of a whole file, and of one that holds nothing else."""
    given, expected = golden_inputs(name), answers(name)["encoder_last_hidden_state"]
    ids, mask = given["input_ids"], given["attention_mask"]

    def encoder_alone(weights):
        for key in [key for key in weights if key.startswith(("decoder", "lm_head"))]:
            del weights[key]

    fields = {"architectures": ["T5EncoderModel"], "is_encoder_decoder": False}
    for folder in (GOLDEN / name, changed(name, tmp_path / "m", fields, encoder_alone)):
        model = T5EncoderModel.from_pretrained(folder)
        output = model(ids, mask, output_attentions=True, output_hidden_states=True)
        np.testing.assert_allclose(output.last_hidden_state, expected * mask[:, :, None], atol=TOLERANCE, rtol=0)
        assert len(output.attentions) == 2 and len(output.hidden_states) == 3
    assert isinstance(load_model(tmp_path / "m"), T5EncoderModel)
    model.save_pretrained(tmp_path / "saved")
    assert np.array_equal(load_model(tmp_path / "saved")(ids, mask).last_hidden_state, output.last_hidden_state)


def test_long_rows_take_memory_of_their_length(model):
    """The bias is one value a distance: 3000 x 3000 scores of two heads would be 72 MB."""
    import tracemalloc

    ids = np.full((1, 3000), 3)
    tracemalloc.start()
    model.encode(ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_head_of_its_own(tmp_path):
    """v1.1's files: an lm_head of its own, and an output that is not scaled."""

    def untied(weights):
        weights["lm_head.weight"] = 2 * weights["shared.weight"]

    config = {"tie_word_embeddings": False, "scale_decoder_outputs": None}
    model = load_model(changed("t5_gated", tmp_path / "m", config, untied))
    rows = golden_inputs("t5_gated")["decoder_attention_mask"].astype(bool)
    logits = model(**golden_inputs("t5_gated")).logits
    np.testing.assert_allclose(logits[rows], 2 * answers("t5_gated")["logits"][rows], atol=4 * TOLERANCE, rtol=0)


def test_mt5_is_v1_1(tmp_path):
    """Its outputs are not scaled, whatever tie_word_embeddings says."""
    fields = {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "tie_word_embeddings": True}

    folder = changed("t5_gated", tmp_path / "m", fields)
    config = json.loads((folder / "config.json").read_text())
    del config["scale_decoder_outputs"]
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder)
    assert isinstance(model, MT5ForConditionalGeneration)
    assert isinstance(load_model(folder, head=False), MT5Model)
    check_forward(model, "t5_gated")
    with pytest.raises(CheckpointError, match="model_type is 'mt5'"):
        T5Model.from_pretrained(folder)


def test_ignored_tensors(tmp_path):
    def change(weights):
        bias = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        weights[bias] = np.full((8, 2), np.nan, np.float32)
        for stack in ("encoder", "decoder"):
            weights[f"{stack}.embed_tokens.weight"] = weights["shared.weight"].copy()

    check_forward(load_model(changed("t5", tmp_path / "m", change=change)), "t5")


@pytest.mark.parametrize(
    "field, value",
    [
        ("is_encoder_decoder", False),
        ("is_decoder", True),
        ("quantization_config", {"bits": 8}),
        ("feed_forward_proj", "gated-mish"),
        ("feed_forward_proj", "doubly-gated-gelu"),
        ("relative_attention_num_buckets", 7),
        ("relative_attention_max_distance", 4),
        ("num_layers", 3),
        ("num_decoder_layers", 1),
        ("d_kv", -1),
    ],
)
def test_refused_config(tmp_path, field, value):
    with pytest.raises(CheckpointError, match=field):
        load_model(changed("t5", tmp_path / "m", {field: value}))


@pytest.mark.parametrize("side", ["attention_mask", "decoder_attention_mask"])
def test_refused_mask_with_a_gap(model, side):
    arguments = {"input_ids": [[3, 4, 5]] * 2, "decoder_input_ids": [[3, 4, 5]] * 2, side: [[1, 1, 0], [1, 0, 1]]}
    with pytest.raises(ValueError, match=f"{side} has a gap in row 1"):
        model(**arguments)


def test_row_of_padding_alone(model):
    output = model([[3, 4], [5, 6]], [[1, 1], [0, 0]], [[3], [4]])
    assert np.isfinite(output.logits).all() and not output.encoder_last_hidden_state[1].any()


def test_needs_decoder_ids(model):
    with pytest.raises(ValueError, match="decoder_input_ids is None"):
        model([[3, 4]])


def test_fresh_model():
    model = T5ForConditionalGeneration(T5Config(vocab_size=11, d_model=8, d_kv=3, d_ff=9, num_layers=1, num_heads=2))
    assert model([[3, 4]], decoder_input_ids=[[0]]).logits.shape == (1, 1, 11)
    assert model.config.num_decoder_layers == 1
