"""models/vit.py against transformers' own numbers (golden): ViT, DeiT, other sizes; checkpoints and checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model_folders import write_json

from transformer_fast import functional, load_model, nn
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.vit import (
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

pytest.importorskip("ml_dtypes")
load_file = pytest.importorskip("safetensors.numpy").load_file
save_file = pytest.importorskip("safetensors.numpy").save_file

GOLDEN = Path(__file__).parent.parent / "golden"
TOLERANCE = 1e-5
CONFIG = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 12,
    "patch_size": 4,
    "pooler_output_size": 6,
}


@pytest.fixture
def model():
    return load_model(GOLDEN / "vit")


@pytest.fixture
def golden():
    with np.load(GOLDEN / "vit" / "answers.npz") as answers:
        return dict(answers)


def write(folder, changes=None, tensors=None):
    write_json(folder / "config.json", {**CONFIG, **(changes or {})})
    save_file(
        load_file(GOLDEN / "vit" / "model.safetensors") if tensors is None else tensors, folder / "model.safetensors"
    )
    return folder


def test_golden_numbers_of_transformers(isa, model, golden):
    output = model(golden["pixel_values"], output_attentions=True, output_hidden_states=True)
    for name in ("last_hidden_state", "pooler_output"):
        np.testing.assert_allclose(output[name], golden[name], atol=TOLERANCE)
    for name in ("hidden_states", "attentions"):
        np.testing.assert_allclose(np.stack(output[name]), golden[name], atol=TOLERANCE)
    plain = model(golden["pixel_values"])
    assert plain.hidden_states is None and plain.attentions is None
    np.testing.assert_array_equal(plain.last_hidden_state, output.last_hidden_state)


def test_pictures_of_another_size(isa, model, golden):
    with pytest.raises(ValueError, match="or interpolate_pos_encoding=True"):
        model(golden["wide"])
    output = model(golden["wide"], interpolate_pos_encoding=True)
    np.testing.assert_allclose(output.last_hidden_state, golden["stretched"], atol=TOLERANCE)
    same = model(golden["pixel_values"], interpolate_pos_encoding=True)
    np.testing.assert_array_equal(same[0], model(golden["pixel_values"])[0])


def test_two_tokens_and_two_heads(isa):
    model = load_model(GOLDEN / "deit")
    assert type(model) is DeiTForImageClassificationWithTeacher
    with np.load(GOLDEN / "deit" / "answers.npz") as golden:
        output = model(golden["pixel_values"])
        for name in ("logits", "cls_logits", "distillation_logits"):
            np.testing.assert_allclose(output[name], golden[name], atol=TOLERANCE)
    headless = load_model(GOLDEN / "deit", head=False)
    assert headless(np.zeros((1, 3, 12, 12), np.float32)).last_hidden_state.shape == (1, 11, 16)


def test_pictures_do_not_depend_on_each_other(model, threads):
    pixels = np.random.default_rng(0).standard_normal((20, 3, 12, 12)).astype(np.float32)
    together = model(pixels)
    functional.set_num_threads(1)
    for i in (0, 7, 19):
        alone = model(pixels[i : i + 1])
        np.testing.assert_array_equal(alone.last_hidden_state[0], together.last_hidden_state[i])
        np.testing.assert_array_equal(alone.pooler_output[0], together.pooler_output[i])
    assert model(pixels[:0]).last_hidden_state.shape == (0, 10, 16)


@pytest.fixture
def classifier():
    nn.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(16, 2, 2, 20, image_size=12, patch_size=4, id2label={"0": "a", "1": "b"})
    )


def test_what_is_reported_does_not_change_the_logits(isa, classifier):
    pixels = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)
    plain, base = classifier(pixels), classifier.base(pixels, output_attentions=True, output_hidden_states=True)
    assert plain.attentions is None and plain.hidden_states is None
    for asked in (["attentions"], ["hidden_states"], ["attentions", "hidden_states"]):
        output = classifier(pixels, **{f"output_{name}": True for name in asked})
        np.testing.assert_array_equal(output.logits, plain.logits)
        assert set(output.keys()) == {"logits", *asked}
        for name in asked:
            np.testing.assert_array_equal(np.stack(output[name]), np.stack(base[name]))
    np.testing.assert_allclose(plain.logits, classifier.classifier(base.last_hidden_state[:, 0]), atol=TOLERANCE)


def test_logits_do_not_depend_on_other_pictures(isa, classifier, threads):
    pixels = np.random.default_rng(0).standard_normal((20, 3, 12, 12)).astype(np.float32)
    together = classifier(pixels).logits
    for i in (0, 7, 19):
        np.testing.assert_array_equal(classifier(pixels[i : i + 1]).logits[0], together[i])
    assert classifier(pixels[:0]).logits.shape == (0, 2)


def test_fresh_models_and_patches_that_do_not_fill_the_picture():
    config = ViTConfig(8, 1, 2, 16, image_size=[10, 15], patch_size=[4, 7], num_channels=1, id2label={"0": "a"})
    output = ViTForImageClassification(config)(np.ones((3, 1, 10, 15), np.float32))
    assert output.logits.shape == (3, 1) and np.isfinite(output.logits).all()
    model = ViTModel(config, add_pooling_layer=False)
    assert model(np.ones((1, 1, 10, 15), np.float32)).pooler_output is None
    edge = np.ones((1, 1, 10, 15), np.float32)
    edge[..., 8:, :] = edge[..., 14:] = 5  # rows and columns that make no whole patch
    np.testing.assert_array_equal(model(edge)[0], model(np.ones((1, 1, 10, 15), np.float32))[0])


def test_written_and_read_again(tmp_path, model, golden):
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path)(golden["pixel_values"])[0], model(golden["pixel_values"])[0])
    fresh = ViTForImageClassification(ViTConfig(8, 1, 2, 16, image_size=8, patch_size=4))
    fresh.save_pretrained(tmp_path / "fresh")
    assert "vit.layernorm.weight" in load_file(tmp_path / "fresh" / "model.safetensors")
    again = load_model(tmp_path / "fresh")
    pixels = np.ones((1, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(again(pixels).logits, fresh(pixels).logits)


@pytest.mark.parametrize(
    "pixels, error, text",
    [
        (
            np.zeros((3, 12, 12), np.float32),
            ValueError,
            r"pixel_values has shape \(3, 12, 12\); needed: \(B, 3, H, W\)",
        ),
        (np.zeros((1, 1, 12, 12), np.float32), ValueError, r"has shape \(1, 1, 12, 12\)"),
        (np.zeros((1, 3, 12, 13), np.float32), ValueError, r"needed: pictures of \(12, 12\)"),
        (np.zeros((1, 3, 12, 12), np.uint8), TypeError, "pixel_values has dtype uint8; needed: float32"),
    ],
)
def test_bad_input(model, pixels, error, text):
    with pytest.raises(error, match=text):
        model(pixels)


def test_a_picture_smaller_than_a_patch(model):
    with pytest.raises(ValueError, match=r"needed: pictures of at least \(4, 4\)"):
        model(np.zeros((1, 3, 3, 12), np.float32), interpolate_pos_encoding=True)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; supported: gelu"),
        ({"pooler_act": "mish"}, "pooler_act is 'mish'"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3; needed: a divisor"),
        ({"head_dim": 4}, "head_dim is 4; supported"),
        ({"patch_size": 13}, "patch_size is 13; needed: at most image_size=12"),
        ({"patch_size": [2, 2, 2]}, r"the size \[2, 2, 2\] is no number, nor a height and a width"),
        ({"image_size": "big"}, "image_size is 'big'"),
        ({"qkv_bias": 1}, "qkv_bias is 1; needed: true or false"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, but .* holds 2 layers"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .*, which is not supported"),
        ({"image_size": 16}, r"position_embeddings' has shape \(1, 10, 16\); needed by config.json: \(1, 17, 16\)"),
        ({"qkv_bias": False}, "does not use: .*query.bias"),
    ],
    ids=str,
)
def test_configs_that_do_not_fit(tmp_path, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, changes))


def test_tensors_that_do_not_fit(tmp_path):
    tensors = load_file(GOLDEN / "vit" / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not use: 'surprise'"):
        load_model(write(tmp_path, tensors=tensors | {"surprise": np.zeros(3, np.float32)}))
    del tensors["layernorm.bias"]
    with pytest.raises(CheckpointError, match="missing tensors: 'layernorm.bias'"):
        load_model(write(tmp_path, tensors=tensors))
