"""vision.py, models/vit.py and models/clip.py live against transformers: random pictures, configs and weights."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast.vision import ImageProcessor

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
