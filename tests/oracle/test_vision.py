"""pictures.py, models/vit.py and models/clip.py live against transformers: random pictures, configs and weights."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import load_model
from transformer_fast.files.pictures import ImageProcessor

pytestmark = pytest.mark.oracle
TOLERANCE = 1e-5


def picture(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape, np.uint8)


PROCESSORS = [
    ("ViT", {}),
    ("ViT", {"size": {"height": 20, "width": 31}, "resample": 0}),
    ("ViT", {"size": 30, "resample": 1, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}),
    ("ViT", {"do_resize": True, "size": {"shortest_edge": 25}, "do_center_crop": True, "crop_size": 31}),
    ("ViT", {"do_rescale": False, "resample": 4}),
    ("ViT", {"do_normalize": False, "rescale_factor": 0.5, "resample": 5}),
    ("CLIP", {}),
    ("CLIP", {"size": 33, "crop_size": {"height": 40, "width": 20}}),
    ("CLIP", {"do_center_crop": False, "size": {"height": 19, "width": 50}}),
    ("DeiT", {"size": 60, "crop_size": 50}),
]


@pytest.mark.parametrize("family, changes", PROCESSORS, ids=str)
def test_image_processors(tmp_path, family, changes):
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    theirs = getattr(transformers, f"{family}ImageProcessorPil")(**changes)
    theirs.save_pretrained(tmp_path)
    ours = ImageProcessor.from_pretrained(tmp_path)
    pictures = [picture(37, 61, 3), picture(90, 41, 3), Image.fromarray(picture(64, 64, 3))]
    if ours.do_convert_rgb:
        pictures += [
            Image.fromarray(picture(37, 61)),
            Image.fromarray(picture(37, 61, 4)),
            Image.fromarray(picture(30, 30, 3)).convert("P"),
        ]
    for image in pictures:
        expected = theirs(image, return_tensors="np")["pixel_values"]
        got = ours(image)["pixel_values"]
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=1e-6)


def shaken(torch, model):
    """The model with random weights everywhere: norms, biases and tokens are no longer 1 or 0."""
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return model.eval()


def agree(got, expected):
    """Every field that transformers returns, and no other."""
    assert set(got.keys()) == set(expected.keys())
    for name in expected.keys():
        mine, theirs = got[name], expected[name]
        if hasattr(theirs, "keys"):
            agree(mine, theirs)
            continue
        pairs = zip(mine, theirs, strict=True) if isinstance(theirs, tuple) else [(mine, theirs)]
        for one, other in pairs:
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other.numpy(), atol=TOLERANCE, err_msg=name)


ALL = {"output_attentions": True, "output_hidden_states": True}
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 24,
    "patch_size": 8,
    "attn_implementation": "eager",
}
VISION_CONFIGS = [
    {},
    {"qkv_bias": False, "hidden_act": "relu", "num_channels": 1},
    {"image_size": [24, 40], "patch_size": [8, 10], "layer_norm_eps": 1e-3, "hidden_act": "gelu_new"},
    {"patch_size": 7, "pooler_output_size": 10, "pooler_act": "relu", "num_labels": 5, "num_attention_heads": 1},
]


@pytest.mark.parametrize("changes", VISION_CONFIGS, ids=str)
@pytest.mark.parametrize(
    "architecture",
    [
        "ViTModel",
        "ViTForImageClassification",
        "DeiTModel",
        "DeiTForImageClassification",
        "DeiTForImageClassificationWithTeacher",
    ],
)
def test_vit(torch, tmp_path, architecture, changes):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture[:4].removesuffix('M').removesuffix('F')}Config")(**SMALL | changes)
    theirs = shaken(torch, getattr(transformers, architecture)(config))
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert type(ours).__name__ == architecture
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    sizes = [(height, width, False)]
    if isinstance(config.patch_size, int):  # transformers interpolates for square patches only
        sizes += [(height, width, True), (40, 27, True), (16, 16, True), (height, width + 1, True)]
    for height, width, interpolate in sizes:
        pixels = torch.randn(2, config.num_channels, height, width)
        options = {"interpolate_pos_encoding": interpolate, **ALL}
        with torch.no_grad():
            expected = theirs(pixels, **options)
        agree(ours(pixels.numpy(), **options), expected)
        plain = ours(pixels.numpy(), interpolate_pos_encoding=interpolate)
        np.testing.assert_array_equal(plain[0], ours(pixels.numpy(), **options)[0])


TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 30,
    "vocab_size": 50,
    "max_position_embeddings": 20,
    "bos_token_id": 47,
    "eos_token_id": 48,
    "projection_dim": 12,
}
PICTURES = {name: value for name, value in SMALL.items() if name != "attn_implementation"} | {"projection_dim": 12}


def clip_config(transformers, text=None, vision=None):
    return transformers.CLIPConfig(
        text_config=TEXT | (text or {}),
        vision_config=PICTURES | (vision or {}),
        projection_dim=12,
        attn_implementation="eager",
    )


def texts(torch, end=48):
    """ids (4, 9) with end-of-text tokens in several places, and a mask of padding on either side."""
    ids = torch.randint(3, 47, (4, 9))
    ids[0, -1] = ids[1, 4] = ids[1, 6] = ids[2, 8] = end
    mask = torch.ones(4, 9, dtype=torch.int64)
    mask[1, 5:], mask[2, :3] = 0, 0
    return ids, mask


@pytest.mark.parametrize(
    "text, vision",
    [({}, {}), ({"hidden_act": "gelu"}, {"patch_size": 5, "hidden_act": "gelu"}), ({"eos_token_id": 2}, {})],
)
def test_clip(torch, tmp_path, text, vision):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    theirs = shaken(torch, transformers.CLIPModel(clip_config(transformers, text, vision)))
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    ids, mask = texts(torch)
    pixels = torch.randn(3, 3, 24, 24)
    for options in ({}, {"position_ids": torch.arange(9)[None] + 3}):
        with torch.no_grad():
            expected = theirs(input_ids=ids, pixel_values=pixels, **options, **ALL)
            features = theirs.get_text_features(ids, **options), theirs.get_image_features(pixels)
        plain = {name: value.numpy() for name, value in options.items()}
        agree(ours(ids.numpy(), pixels.numpy(), **plain, **ALL), expected)
        got = ours.get_text_features(ids.numpy(), **plain), ours.get_image_features(pixels.numpy())
        for one, other in zip(got, features, strict=True):
            np.testing.assert_allclose(one, other.pooler_output.numpy(), atol=TOLERANCE)
    with torch.no_grad():
        expected = theirs(ids, pixels, mask, **ALL)
    got = ours(ids.numpy(), pixels.numpy(), mask.numpy(), **ALL)
    np.testing.assert_allclose(got.logits_per_text, expected.logits_per_text.numpy(), atol=TOLERANCE)
    state = expected.text_model_output.last_hidden_state * mask[:, :, None]
    np.testing.assert_allclose(got.text_model_output.last_hidden_state, state.numpy(), atol=TOLERANCE)
    both = (mask[:, None, :, None] * mask[:, None, None, :]).numpy()
    for one, other in zip(got.text_model_output.attentions, expected.text_model_output.attentions, strict=True):
        np.testing.assert_allclose(one, other.numpy() * both, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_clip_text(torch, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    from transformer_fast.models import clip

    torch.manual_seed(2)
    whole = shaken(torch, transformers.CLIPModel(clip_config(transformers)))
    whole.save_pretrained(tmp_path / "whole")
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "whole", attn_implementation="eager").eval()
    theirs.save_pretrained(tmp_path / "part")
    ids, _ = texts(torch)
    with torch.no_grad():
        expected = theirs(ids, **ALL)
    agree(load_model(tmp_path / "part")(ids.numpy(), **ALL), expected)
    agree(getattr(clip, name).from_pretrained(tmp_path / "whole")(ids.numpy(), **ALL), expected)


@pytest.mark.parametrize("name", ["CLIPVisionModel", "CLIPVisionModelWithProjection"])
def test_clip_vision(torch, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    from transformer_fast.models import clip

    torch.manual_seed(3)
    whole = shaken(torch, transformers.CLIPModel(clip_config(transformers)))
    whole.save_pretrained(tmp_path / "whole")
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "whole", attn_implementation="eager").eval()
    theirs.save_pretrained(tmp_path / "part")
    for size, interpolate in [((24, 24), False), ((40, 30), True)]:
        pixels = torch.randn(2, 3, *size)
        options = {"interpolate_pos_encoding": interpolate, **ALL}
        with torch.no_grad():
            expected = theirs(pixels, **options)
        agree(load_model(tmp_path / "part")(pixels.numpy(), **options), expected)
        agree(getattr(clip, name).from_pretrained(tmp_path / "whole")(pixels.numpy(), **options), expected)


@pytest.mark.parametrize("architecture", ["ViTForImageClassification", "CLIPModel", "CLIPTextModelWithProjection"])
def test_saved_models_are_read_by_transformers(torch, tmp_path, architecture):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    configs = {
        "CLIPModel": clip_config(transformers),
        "CLIPTextModelWithProjection": transformers.CLIPTextConfig(**TEXT),
    }
    config = configs.get(architecture, transformers.ViTConfig(**SMALL))
    theirs = shaken(torch, getattr(transformers, architecture)(config))
    theirs.save_pretrained(tmp_path / "theirs")
    load_model(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    again, report = getattr(transformers, architecture).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["CLIPTextModel", "CLIPVisionModelWithProjection"])
def test_a_saved_tower_is_read_by_transformers(torch, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    from transformer_fast.models import clip

    whole = shaken(torch, transformers.CLIPModel(clip_config(transformers)))
    whole.save_pretrained(tmp_path / "whole")
    getattr(clip, name).from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "part")
    again, report = getattr(transformers, name).from_pretrained(tmp_path / "part", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "whole")
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)
    assert type(load_model(tmp_path / "part")).__name__ == name
