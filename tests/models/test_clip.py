"""models/clip.py against transformers' own numbers (golden): both towers, each alone; checkpoints and checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model_folders import write_json

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
from transformer_fast.models import clip

pytest.importorskip("ml_dtypes")
load_file = pytest.importorskip("safetensors.numpy").load_file
save_file = pytest.importorskip("safetensors.numpy").save_file

GOLDEN = Path(__file__).parent.parent / "golden" / "clip"
TOLERANCE = 1e-5


@pytest.fixture
def model():
    return load_model(GOLDEN)


@pytest.fixture
def golden():
    with np.load(GOLDEN / "answers.npz") as answers:
        return dict(answers)


def write(folder, change=None, tensors=None):
    """The golden checkpoint with a config that `change` has changed."""
    config = read_json_object(GOLDEN / "config.json")
    if change is not None:
        change(config)
    write_json(folder / "config.json", config)
    save_file(load_file(GOLDEN / "model.safetensors") if tensors is None else tensors, folder / "model.safetensors")
    return folder


def test_golden_numbers_of_transformers(isa, model, golden):
    output = model(golden["input_ids"], golden["pixel_values"], golden["attention_mask"])
    for name in ("logits_per_image", "text_embeds", "image_embeds"):
        np.testing.assert_allclose(output[name], golden[name], atol=TOLERANCE)
    np.testing.assert_array_equal(output.logits_per_text, output.logits_per_image.T)
    mask = golden["attention_mask"]
    text = output.text_model_output.last_hidden_state
    np.testing.assert_allclose(text, golden["text_state"] * mask[:, :, None], atol=TOLERANCE)
    np.testing.assert_allclose(output.vision_model_output.last_hidden_state, golden["vision_state"], atol=TOLERANCE)


def test_features_point_where_the_embeddings_do(model, golden):
    output = model(golden["input_ids"], golden["pixel_values"])
    features = model.get_text_features(golden["input_ids"]), model.get_image_features(golden["pixel_values"])
    for rows, embeds in zip(features, (output.text_embeds, output.image_embeds), strict=True):
        np.testing.assert_allclose(rows / np.linalg.norm(rows, axis=1, keepdims=True), embeds, atol=1e-6)


def test_features_do_not_depend_on_others(isa, model, golden, threads):
    """Nor on how long the longest text is."""
    ids, pixels = golden["input_ids"], golden["pixel_values"]
    texts, pictures = model.get_text_features(ids), model.get_image_features(pixels)
    for i in range(len(ids)):
        np.testing.assert_array_equal(model.get_text_features(ids[i : i + 1])[0], texts[i])
    for i in range(len(pixels)):
        np.testing.assert_array_equal(model.get_image_features(pixels[i : i + 1])[0], pictures[i])
    assert model.get_text_features(ids[:0]).shape == (0, texts.shape[1])
    assert model.get_image_features(pixels[:0]).shape == (0, pictures.shape[1])


def test_towers_alone(isa, model, golden):
    ids, pixels = golden["input_ids"], golden["pixel_values"]
    whole = model(ids, pixels, output_hidden_states=True)
    for name, projected in (("CLIPTextModel", False), ("CLIPTextModelWithProjection", True)):
        output = getattr(clip, name).from_pretrained(GOLDEN)(ids, output_hidden_states=True)
        np.testing.assert_array_equal(output.last_hidden_state, whole.text_model_output.last_hidden_state)
        assert len(output.hidden_states) == 3 and output.attentions is None
        if projected:
            np.testing.assert_allclose(output.text_embeds, model.get_text_features(ids), atol=1e-6)
    for name, projected in (("CLIPVisionModel", False), ("CLIPVisionModelWithProjection", True)):
        output = getattr(clip, name).from_pretrained(GOLDEN)(pixels, output_attentions=True)
        np.testing.assert_array_equal(output.last_hidden_state, whole.vision_model_output.last_hidden_state)
        assert output.attentions[0].shape == (3, 2, 10, 10)
        if projected:
            np.testing.assert_allclose(output.image_embeds, model.get_image_features(pixels), atol=1e-6)


def test_where_the_text_is_read(tmp_path, model):
    ids = np.array([[38, 1, 39, 2, 39, 3], [38, 1, 2, 3, 4, 5]])
    output = model.text_model(ids)
    np.testing.assert_array_equal(output.pooler_output[0], output.last_hidden_state[0, 2])
    np.testing.assert_array_equal(output.pooler_output[1], output.last_hidden_state[1, 0])  # no end: the first token
    legacy = load_model(write(tmp_path, lambda config: config["text_config"].update(eos_token_id=2))).text_model
    output = legacy(np.array([[9, 1, 30, 2, 30, 3], [38, 1, 2, 3, 4, 5]]))
    np.testing.assert_array_equal(output.pooler_output[0], output.last_hidden_state[0, 2])
    np.testing.assert_array_equal(output.pooler_output[1], output.last_hidden_state[1, 0])


def test_the_text_is_causal_and_padding_changes_nothing(model):
    ids = np.array([[38, 5, 6, 7, 39]])
    state = model.text_model(ids).last_hidden_state
    other = model.text_model(np.array([[38, 5, 6, 8, 39]])).last_hidden_state
    np.testing.assert_array_equal(state[:, :3], other[:, :3])
    assert not np.array_equal(state[:, 3:], other[:, 3:])
    padded, mask = np.array([[3, 38, 5, 6, 7, 39, 3]]), np.array([[0, 1, 1, 1, 1, 1, 0]])
    moved = model.text_model(padded, mask, np.array([[0, 0, 1, 2, 3, 4, 0]]))
    np.testing.assert_array_equal(moved.last_hidden_state[:, 1:-1], state)
    assert not moved.last_hidden_state[:, [0, -1]].any()


def test_written_and_read_again(tmp_path, model, golden):
    model.save_pretrained(tmp_path / "whole")
    arguments = golden["input_ids"], golden["pixel_values"]
    np.testing.assert_array_equal(load_model(tmp_path / "whole")(*arguments)[0], model(*arguments)[0])
    part = clip.CLIPTextModelWithProjection(clip.CLIPTextConfig(20, 8, 16, 1, 2, 6, projection_dim=5, eos_token_id=19))
    part.save_pretrained(tmp_path / "part")
    again = load_model(tmp_path / "part")
    ids = np.array([[1, 2, 19]])
    np.testing.assert_array_equal(again(ids).text_embeds, part(ids).text_embeds)


def test_a_tower_that_is_described_twice(tmp_path, model, golden):
    def change(config):
        config["text_config_dict"] = config["text_config"]
        config["text_config"] = {"hidden_act": "mish"}

    arguments = golden["input_ids"], golden["pixel_values"]
    np.testing.assert_array_equal(load_model(write(tmp_path, change))(*arguments)[0], model(*arguments)[0])


def test_numbers_of_the_positions_are_not_needed(tmp_path, golden):
    tensors = load_file(GOLDEN / "model.safetensors")
    for tower, length in (("text_model", 10), ("vision_model", 10)):
        tensors[f"{tower}.embeddings.position_ids"] = np.arange(length)[None]
    folder = write(tmp_path, tensors=tensors)
    assert load_model(folder).get_text_features(golden["input_ids"]).shape == (2, 8)
    clip.CLIPVisionModel.from_pretrained(folder)
    clip.CLIPTextModel.from_pretrained(folder)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        (([38, 39],), ValueError, r"input_ids has shape \(2,\); needed: \(B, L\)"),
        ((np.zeros((2, 0), int),), ValueError, r"input_ids has shape \(2, 0\)"),
        ((np.zeros((1, 11), int),), ValueError, "L <= max_position_embeddings=10"),
        (([[38, 40]],), IndexError, "input_ids holds 40; needed: 0 to 39"),
        (([[38, 39]], [1, 1]), ValueError, r"attention_mask has shape \(2,\)"),
        (([[38, 39], [38, 39]], [[1, 1], [1, 0]]), ValueError, "attention_mask is 0 at the end-of-text token of row 1"),
        (([[38, 39]], None, [[0, 10]]), IndexError, "position_ids holds 10"),
    ],
)
def test_bad_text(model, arguments, error, text):
    with pytest.raises(error, match=text):
        model.text_model(*arguments)


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda c: c["text_config"].update(hidden_act="mish"), "hidden_act is 'mish'; supported"),
        (lambda c: c["vision_config"].update(num_attention_heads=3), "num_attention_heads is 3; needed: a divisor"),
        (lambda c: c["vision_config"].update(patch_size=20), "patch_size is 20; needed: at most image_size=12"),
        (lambda c: c["text_config"].update(eos_token_id=[39]), r"eos_token_id is \[39\]"),
        (lambda c: c["text_config"].update(num_hidden_layers=3), "text_config.num_hidden_layers is 3, but .* 2 layers"),
        (lambda c: c["vision_config"].update(num_hidden_layers=1), "vision_config.num_hidden_layers is 1, but"),
        (lambda c: c.update(text_config="big"), "text_config is 'big'; needed: an object"),
        (
            lambda c: c.update(projection_dim=9),
            r"projection.weight' has shape \(8, 16\); needed by config.json: \(9, 16\)",
        ),
        (lambda c: c.update(quantization_config={}), "quantization_config is {}, which is not supported"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, change, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, change))


def test_a_tower_of_another_family_is_refused():
    with pytest.raises(CheckpointError, match="model_type is 'clip'; needed by ViTModel: vit"):
        from transformer_fast.models.vit import ViTModel

        ViTModel.from_pretrained(GOLDEN)
