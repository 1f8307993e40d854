"""pictures.py: pictures of every kind, the fields of the file, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from model_folders import write_json

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.pictures import ImageProcessor, load_image, upright

Image = pytest.importorskip("PIL.Image")

VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 4, "width": 6}}
CLIP = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 8}, "crop_size": 6}


def picture(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape, np.uint8)


def plain(pixels, mean=0.5, std=0.5):
    """Rescaled and normalised (C, H, W) of (H, W, C)."""
    return np.moveaxis((pixels / 255 - mean) / std, -1, 0)


def processor(**changes):
    return ImageProcessor.from_config({**VIT, **changes})


def test_rescale_and_normalise_without_resizing():
    pixels = picture(5, 7, 3)
    got = processor(do_resize=False)(pixels)["pixel_values"]
    assert got.shape == (1, 3, 5, 7) and got.dtype == np.float32
    np.testing.assert_allclose(got[0], plain(pixels), atol=1e-6)
    means, stds = np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])
    got = processor(do_resize=False, image_mean=list(means), image_std=list(stds))(pixels)["pixel_values"]
    np.testing.assert_allclose(got[0], plain(pixels, means, stds), atol=1e-6)


def test_steps_can_be_left_out():
    pixels = picture(5, 7, 3)
    raw = processor(do_resize=False, do_rescale=False, do_normalize=False)(pixels)["pixel_values"][0]
    np.testing.assert_array_equal(raw, np.moveaxis(pixels, -1, 0))
    unscaled = processor(do_resize=False, do_rescale=False)(pixels)["pixel_values"][0]
    np.testing.assert_allclose(unscaled, (raw - 0.5) / 0.5)
    scaled = processor(do_resize=False, do_normalize=False, rescale_factor=2)(pixels)["pixel_values"][0]
    np.testing.assert_array_equal(scaled, raw * 2)


@pytest.mark.parametrize("resample", range(6))
def test_resize_is_pillows(resample):
    pixels = picture(9, 7, 3)
    got = processor(resample=resample)(pixels)["pixel_values"][0]
    expected = np.asarray(Image.fromarray(pixels).resize((6, 4), resample=resample))
    np.testing.assert_allclose(got, plain(expected), atol=1e-6)


@pytest.mark.parametrize("shape, resized", [((16, 12), (10, 8)), ((12, 17), (8, 11)), ((20, 20), (8, 8))])
def test_shortest_edge_keeps_the_proportions(shape, resized):
    config = {**CLIP, "do_center_crop": False}
    assert ImageProcessor.from_config(config)(picture(*shape, 3))["pixel_values"].shape == (1, 3, *resized)
    assert ImageProcessor.from_config({**config, "size": 8})(picture(*shape, 3))["pixel_values"].shape[2:] == resized


@pytest.mark.parametrize("shape", [(9, 11), (6, 6), (7, 4), (5, 9), (2, 1), (5, 5)])
def test_center_crop_pads_with_zeros(shape):
    pixels = picture(*shape, 3) | 1
    options = {"do_resize": False, "do_normalize": False, "do_rescale": False}
    got = ImageProcessor.from_config({**CLIP, **options})(pixels)["pixel_values"][0]
    assert got.shape == (3, 6, 6)
    for y in range(6):
        for x in range(6):
            row, column = y + (shape[0] - 6) // 2, x + (shape[1] - 6) // 2
            inside = 0 <= row < shape[0] and 0 <= column < shape[1]
            np.testing.assert_array_equal(got[:, y, x], pixels[row, column] if inside else 0)


def test_pictures_of_every_kind():
    pixels = picture(5, 7, 3)
    run = processor(do_convert_rgb=True)
    expected = run(pixels)["pixel_values"]
    for same in (Image.fromarray(pixels), np.moveaxis(pixels, -1, 0), [pixels], pixels[None]):
        np.testing.assert_array_equal(run(same)["pixel_values"], expected)
    two = run([pixels, picture(8, 3, 3)])["pixel_values"]
    assert two.shape == (2, 3, 4, 6)
    np.testing.assert_array_equal(two[0], expected[0])
    grey = picture(5, 7)
    np.testing.assert_array_equal(run(grey)["pixel_values"], run(np.stack([grey] * 3, axis=-1))["pixel_values"])
    np.testing.assert_array_equal(run(grey[None])["pixel_values"], run(grey[:, :, None])["pixel_values"])
    one_channel = processor(image_mean=0.5, image_std=[0.5])
    assert one_channel(grey)["pixel_values"].shape == (1, 1, 4, 6)


def test_what_is_transparent_lies_on_white():
    clear = np.zeros((4, 6, 4), np.uint8)
    got = processor(do_convert_rgb=True)(clear)["pixel_values"]
    np.testing.assert_array_equal(got, np.ones((1, 3, 4, 6), np.float32))
    palette = Image.fromarray(picture(4, 6, 3)).convert("P")
    assert processor(do_convert_rgb=True)(palette)["pixel_values"].shape == (1, 3, 4, 6)


def test_folders(tmp_path):
    write_json(tmp_path / "preprocessor_config.json", VIT)
    assert ImageProcessor.from_pretrained(tmp_path) == processor()
    write_json(tmp_path / "preprocessor_config.json", {"size": 5})
    write_json(tmp_path / "config.json", {"model_type": "clip"})
    assert ImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 5}
    write_json(tmp_path / "processor_config.json", {"processor_class": "CLIPProcessor"})
    assert ImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 5}
    write_json(tmp_path / "processor_config.json", {"image_processor": CLIP})
    assert ImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 8}


def test_defaults_and_older_spellings():
    old = ImageProcessor.from_config({"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 200})
    assert old.size == {"height": 256, "width": 256} and old.crop_size == {"height": 200, "width": 200}
    assert old.resample == 3 and old.do_center_crop
    nulls = {"do_pad": None, "pad_size": None, "crop_size": None, "data_format": "channels_first", "device": None}
    assert processor(**nulls) == processor()
    assert ImageProcessor.from_config({"image_processor_type": "CLIPImageProcessorFast"}).size == {"shortest_edge": 224}
    assert processor(size=[3, 5]).size == {"height": 3, "width": 5}
    assert processor(size=7, default_to_square=False).size == {"shortest_edge": 7}


@pytest.mark.parametrize(
    "changes, text",
    [
        (
            {"image_processor_type": "DetrImageProcessor"},
            "image_processor_type is 'DetrImageProcessor'; supported: ViT",
        ),
        ({"image_processor_type": None}, "image_processor_type is None"),
        ({"do_pad": True}, "do_pad is True, which is not supported"),
        ({"do_reduce_labels": True}, "do_reduce_labels is True"),
        ({"crop_pct": 0.9}, "crop_pct is 0.9"),
        ({"data_format": "channels_last"}, "data_format is 'channels_last'"),
        ({"size": {"shortest_edge": 5, "longest_edge": 9}}, "size is .*; supported: height and width"),
        ({"size": {"longest_edge": 9}}, "size is .*; supported: height and width"),
        ({"size": {"height": 5}}, "size is"),
        ({"size": "224"}, "size is '224'"),
        ({"size": True}, "size is True"),
        ({"size": {"height": 0, "width": 5}}, "needed: integers from 1"),
        ({"size": {"height": 2**40, "width": 5}}, "needed: integers from 1"),
        ({"crop_size": {"shortest_edge": 5}}, "crop_size is .*; needed: height and width"),
        ({"resample": 6}, "resample is 6; needed: 0 to 5"),
        ({"resample": "bicubic"}, "resample is 'bicubic'"),
        ({"do_resize": 1}, "do_resize is 1; needed: true or false"),
        ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ({"image_mean": []}, r"image_mean is \[\]"),
        ({"image_mean": [0.5, "x", 0.5]}, "image_mean is"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std is .*; needed: numbers other than 0"),
    ],
    ids=str,
)
def test_files_that_do_not_fit(changes, text):
    with pytest.raises(CheckpointError, match=text):
        processor(**changes)


@pytest.mark.parametrize(
    "images, error, text",
    [
        ("cat.jpg", TypeError, "images is a str; needed: a PIL image"),
        (5, TypeError, "images is a int"),
        ([], ValueError, "images is empty"),
        ([picture(8, 8, 3), 7], TypeError, r"images\[1\] is a int"),
        (picture(4, 4, 3).astype(np.float32), TypeError, r"images\[0\] has dtype float32; needed: uint8"),
        (picture(8, 8, 2), ValueError, r"images\[0\] has shape \(8, 8, 2\)"),
        (picture(4), ValueError, r"images\[0\] has shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"has shape \(0, 4, 3\)"),
        (picture(4, 4), ValueError, r"images\[0\] has 1 channels, image_mean has 3"),
        (picture(4, 4, 4), ValueError, r"images\[0\] has 4 channels"),
        (Image.new("P", (3, 3)), ValueError, r"images\[0\] has mode P; needed: L, RGB or RGBA, or do_convert_rgb"),
    ],
)
def test_bad_pictures(images, error, text):
    with pytest.raises(error, match=text):
        processor()(images)


def test_pictures_of_several_sizes_need_one_result():
    with pytest.raises(ValueError, match="the images come out with shapes"):
        processor(do_resize=False)([picture(8, 8, 3), picture(8, 9, 3)])


def test_load_image(tmp_path):
    pixels = picture(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), pixels)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    turned.save(tmp_path / "b.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "b.png")), np.rot90(pixels, -1))
    with pytest.raises(OSError):
        load_image(tmp_path / "none.png")
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(OSError):
        load_image(tmp_path / "c.png")


def test_grey_of_16_bits(tmp_path):
    """It is scaled to 8 bits, not cut off at 255: 257 values become one."""
    grey = np.linspace(0, 65535, 400).round().astype(np.uint16).reshape(20, 20)
    expected = np.round(grey / 257).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "a.tif")
    big = Image.frombytes("I;16B", (20, 20), grey.astype(">u2").tobytes())
    old = Image.fromarray(grey.astype(np.int32))  # as older releases of Pillow open the file
    old.format = "PNG"
    for image in (load_image(tmp_path / "a.png"), load_image(tmp_path / "a.tif"), upright(big), upright(old)):
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), np.repeat(expected[:, :, None], 3, 2))
    for one in (processor(image_mean=0.5, image_std=0.5), ImageProcessor.from_config(CLIP)):
        given = Image.open(tmp_path / "a.png")
        eight = Image.fromarray(expected)
        np.testing.assert_array_equal(one(given)["pixel_values"], one(eight)["pixel_values"])
    turned = Image.fromarray(grey)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "b.png"))[:, :, 0], np.rot90(expected, -1))


def test_numbers_of_32_bits_are_refused(tmp_path):
    for mode, dtype in (("I", np.int32), ("F", np.float32)):
        image = Image.fromarray(np.arange(16).reshape(4, 4).astype(dtype))
        assert image.mode == mode
        image.save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=rf"a.tif has mode {mode} \(32 bits\), .*; needed: 8 or 16 bits"):
            load_image(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=rf"images\[0\] has mode {mode}"):
            processor()(image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_8_bits_are_pillows(mode):
    image = Image.fromarray(picture(6, 6, 3)).convert(mode)
    np.testing.assert_array_equal(np.asarray(upright(image)), np.asarray(image.convert("RGB")))
