"""Image preprocessing: `ImageProcessor` makes a model's pixel_values from pictures, as the checkpoint's own file says.

`pipelines` and users call it. Pillow (the extra `vision`) reads, converts and resizes; all that follows is exact: a
table of 256 floats a channel. Source: transformers' image processors on Pillow (ViTImageProcessor, CLIPImageProcessor,
DeiTImageProcessor). To add a processor, add its defaults to `_DEFAULTS`; to add a step, see `ImageProcessor._pixels`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource

# image_processor_type without its ending -> what a missing field means.
_COMMON = {
    "do_convert_rgb": False,
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "default_to_square": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "crop_size": {"height": 224, "width": 224},
}
_DEFAULTS = {
    "ViT": {**_COMMON, "resample": 2, "size": {"height": 224, "width": 224}},
    "DeiT": {**_COMMON, "resample": 3, "size": {"height": 256, "width": 256}, "do_center_crop": True},
    "CLIP": {
        **_COMMON,
        "do_convert_rgb": True,
        "do_center_crop": True,
        "resample": 3,
        "size": {"shortest_edge": 224},
        "default_to_square": False,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
}
_MODEL_TYPES = {"vit": "ViT", "deit": "DeiT", "clip": "CLIP"}
_ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")

# Fields that say who wrote the file, or how a call of transformers' class returns its result.
_BOOKKEEPING = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_valid_processor_keys",
    "return_tensors",
    "device",
    "disable_grouping",
}

# PIL.Image.Resampling: nearest, Lanczos, bilinear, bicubic, box, Hamming.
_FILTERS = range(6)
_MOST_PIXELS = 2**16  # a side; a file that asks for more is a mistake or an attack


def pillow() -> ModuleType:
    """The module PIL.Image.

    Raises:
        ImportError: Pillow is not installed; the text says how to install it.
    """
    return optional_import("PIL.Image", "vision")


def load_image(path: str | Path) -> Any:
    """The picture in a file as a PIL image in RGB, turned as its EXIF orientation says.

    Raises:
        OSError: there is no such file, or it holds no image that Pillow can read.
        ValueError: its numbers have no range that would be known, as those of 32 bits.

    Example:
        >>> load_image("cat.jpg").size                                                                # doctest: +SKIP
        (640, 480)
    """
    with pillow().open(path) as image:
        return upright(image, str(path))


def upright(image: Any, name: str = "the picture") -> Any:
    """A PIL image turned as its EXIF orientation says, in RGB: what transformers' pipelines make of a picture.

    Grey of 16 bits is scaled to 8, where transformers makes almost all of it white. name is for errors.

    Raises:
        ValueError: the picture's numbers are of 32 bits.
    """
    turned = import_module("PIL.ImageOps").exif_transpose(image)
    turned.format = image.format
    return _eight_bits(turned, name).convert("RGB")


def _eight_bits(image: Any, name: str) -> Any:
    """The picture with 8 bits a channel: Pillow's own conversions cut off what is above 255."""
    # Older releases of Pillow open a PNG of 16 bits in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = (np.asarray(image).astype(np.int64) + 128) // 257
        return pillow().fromarray(grey.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"{name} has mode {image.mode} (32 bits), whose range is not known; needed: 8 or 16 bits")
    return image


@dataclass(frozen=True)
class ImageProcessor:
    """Pictures in, pixel_values out; made by `from_pretrained`. The fields are those of preprocessor_config.json.

    size: {"height", "width"}, or {"shortest_edge"}, which keeps the proportions. resample: a number of
    PIL.Image.Resampling. crop_size: {"height", "width"}; what a picture lacks of it is 0 (before rescaling). Steps that
    are not asked for (do_... is False) are left out.

    Example:
        >>> processor = ImageProcessor.from_config({"image_processor_type": "ViTImageProcessor", "size": 32})
        >>> processor(np.zeros((40, 60, 3), np.uint8))["pixel_values"].shape
        (1, 3, 32, 32)
    """

    do_convert_rgb: bool
    do_resize: bool
    size: Mapping[str, int]
    resample: int
    do_center_crop: bool
    crop_size: Mapping[str, int]
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path | ModelSource, **hub: Any) -> ImageProcessor:
        """The processor that a model's processor_config.json describes, else its preprocessor_config.json.

        path_or_hub_id and hub: as in `load_model`.

        Raises:
            CheckpointError: a file is missing or malformed, or asks for what is not supported.
        """
        source = open_source(path_or_hub_id, **hub)
        config = source.object("processor_config.json", required=False).get("image_processor")
        if isinstance(config, dict):
            return cls.from_config(config, source.place("processor_config.json"))
        config = source.object("preprocessor_config.json")
        if not {"image_processor_type", "feature_extractor_type"} & config.keys():
            # Files of 2021 leave it to the model's config.
            family = _MODEL_TYPES.get(source.object("config.json").get("model_type"))
            config["image_processor_type"] = f"{family}ImageProcessor"
        return cls.from_config(config, source.place("preprocessor_config.json"))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str | Path = "config") -> ImageProcessor:
        """The processor that the content of `source` describes.

        Raises:
            CheckpointError: a field is of a wrong type, out of range or not supported.
        """
        values = _fields(config, source)
        square = values.pop("default_to_square")
        values["size"] = _size("size", values["size"], square, source)
        values["crop_size"] = _size("crop_size", values["crop_size"], True, source)
        if set(values["crop_size"]) != {"height", "width"}:
            raise CheckpointError(f"{source}: crop_size is {values['crop_size']!r}; needed: height and width")
        for name in ("image_mean", "image_std"):
            values[name] = _channels(name, values[name], source)
        if 0 in values["image_std"]:
            raise CheckpointError(f"{source}: image_std is {values['image_std']!r}; needed: numbers other than 0")
        if type(values["resample"]) is not int or values["resample"] not in _FILTERS:
            raise CheckpointError(f"{source}: resample is {values['resample']!r}; needed: 0 to {_FILTERS[-1]}")
        if not _finite(values["rescale_factor"]):
            raise CheckpointError(f"{source}: rescale_factor is {values['rescale_factor']!r}; needed: a number")
        return cls(**values)

    def __call__(self, images: Any) -> dict[str, np.ndarray]:
        """{"pixel_values": (B, C, H, W) float32} of one picture or of several, which may be of different sizes.

        A picture is a PIL image, or a uint8 array (H, W), (C, H, W) or (H, W, C) with C = 1, 3 or 4; an array that
        could be either of the last two is taken as (C, H, W).

        Raises:
            TypeError: a picture is neither, or an array is not uint8.
            ValueError: a shape does not fit, a picture's channels are not those of image_mean, its numbers are of 32
                bits, or the pictures come out in different sizes.
        """
        single = images.ndim <= 3 if isinstance(images, np.ndarray) else isinstance(images, pillow().Image)
        if not single and (isinstance(images, (str, bytes, Mapping)) or not isinstance(images, Iterable)):
            raise TypeError(f"images is a {type(images).__name__}; needed: a PIL image or a uint8 array, or several")
        pixels = [self._pixels(image, f"images[{i}]") for i, image in enumerate([images] if single else images)]
        shapes = sorted({array.shape for array in pixels})
        if len(shapes) > 1:
            raise ValueError(f"the images come out with shapes {shapes}; needed: one shape (call one by one, or crop)")
        if not pixels:
            raise ValueError("images is empty; needed: at least one picture")
        return {"pixel_values": np.stack(pixels)}

    def _pixels(self, image: Any, name: str) -> np.ndarray:
        """One picture as (C, H, W) float32."""
        image = _eight_bits(_pil_image(image, name), name)
        if self.do_convert_rgb:
            image = _rgb(image)
        elif image.mode not in ("L", "RGB", "RGBA"):
            raise ValueError(f"{name} has mode {image.mode}; needed: L, RGB or RGBA, or do_convert_rgb")
        if self.do_resize:
            width, height = self._resized(*image.size)
            image = image.resize((width, height), resample=self.resample)
        pixels = np.asarray(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.do_center_crop:
            pixels = _cropped(pixels, self.crop_size["height"], self.crop_size["width"])
        C = pixels.shape[2]
        table = self._table(C, name)
        result = np.empty((C, *pixels.shape[:2]), np.float32)
        for c in range(C):
            np.take(table[c], pixels[:, :, c], out=result[c])
        return result

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) that a picture is resized to."""
        edge = self.size.get("shortest_edge")
        if edge is None:
            return self.size["width"], self.size["height"]
        longest = int(edge * max(width, height) / min(width, height))
        return (edge, longest) if width <= height else (longest, edge)

    def _table(self, C: int, name: str) -> np.ndarray:
        """(C, 256): what rescaling and normalising make of each byte, in the types that transformers computes in."""
        values = np.arange(256, dtype=np.float64)
        if self.do_rescale:
            values = values * self.rescale_factor
        table = np.broadcast_to(values.astype(np.float32), (C, 256))
        if not self.do_normalize:
            return table
        mean, std = (self._per_channel(part, C, name) for part in ("image_mean", "image_std"))
        return (table - mean) / std

    def _per_channel(self, part: str, C: int, name: str) -> np.ndarray:
        values = getattr(self, part)
        if len(values) not in (1, C):
            raise ValueError(f"{name} has {C} channels, {part} has {len(values)}; needed: the same (convert it to RGB)")
        return np.array(values, np.float32)[:, None]


def _pil_image(image: Any, name: str) -> Any:
    if isinstance(image, pillow().Image):
        return image
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name} is a {type(image).__name__}; needed: a PIL image or a uint8 array")
    if image.dtype != np.uint8:
        raise TypeError(f"{name} has dtype {image.dtype}; needed: uint8, 0 to 255")
    counts = (1, 3, 4)
    if image.ndim == 3 and image.shape[0] in counts:
        image = np.moveaxis(image, 0, -1)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)) or 0 in image.shape:
        raise ValueError(f"{name} has shape {image.shape}; needed: (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4")
    return pillow().fromarray(np.ascontiguousarray(image))


def _rgb(image: Any) -> Any:
    """The picture in RGB; what is transparent lies on white."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        background = pillow().new("RGBA", image.size, (255, 255, 255, 255))
        image = pillow().alpha_composite(background, image)
    return image.convert("RGB")


def _cropped(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of (H, W, C) as (height, width, C), with zeros where the picture is smaller."""
    result = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    taken, placed = [], []
    for have, need in zip(pixels.shape, (height, width), strict=False):
        start = (have - need) // 2
        first, last = max(start, 0), min(start + need, have)
        taken.append(slice(first, last))
        placed.append(slice(first - start, last - start))
    result[tuple(placed)] = pixels[tuple(taken)]
    return result


# ----------------------------------------------------------------------------------------------------------------------
# Reading the file


def _fields(config: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The fields of `config` over their defaults; what is not known must say None or False."""
    kind = config.get("image_processor_type", config.get("feature_extractor_type"))
    family = next((kind.removesuffix(end) for end in _ENDINGS if isinstance(kind, str) and kind.endswith(end)), None)
    if family not in _DEFAULTS:
        supported = ", ".join(f"{name}ImageProcessor" for name in _DEFAULTS)
        raise CheckpointError(f"{source}: image_processor_type is {kind!r}; supported: {supported}")
    values = dict(_DEFAULTS[family])
    for name, value in config.items():
        if name == "data_format" and value in (None, "channels_first", "FIRST"):
            continue
        if name in values:
            if value is not None:
                values[name] = value
        elif name not in _BOOKKEEPING and value is not None and value is not False:
            raise CheckpointError(f"{source}: {name} is {value!r}, which is not supported; needed: no such field")
    for name, value in values.items():
        if isinstance(_COMMON.get(name), bool) and not isinstance(value, bool):
            raise CheckpointError(f"{source}: {name} is {value!r}; needed: true or false")
    return values


def _size(name: str, value: Any, square: bool, source: str | Path) -> dict[str, int]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    elif isinstance(value, list) and len(value) == 2:
        value = dict(zip(("height", "width"), value, strict=True))
    # Files of transformers 5 name the other ways of giving a size too, with null.
    sizes = {key: n for key, n in value.items() if n is not None} if isinstance(value, Mapping) else {}
    if set(sizes) not in ({"height", "width"}, {"shortest_edge"}):
        raise CheckpointError(f"{source}: {name} is {value!r}; supported: height and width, or shortest_edge")
    for n in sizes.values():
        if type(n) is not int or not 1 <= n <= _MOST_PIXELS:
            raise CheckpointError(f"{source}: {name} is {value!r}; needed: integers from 1 to {_MOST_PIXELS}")
    return sizes


def _channels(name: str, value: Any, source: str | Path) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values or not all(map(_finite, values)):
        raise CheckpointError(f"{source}: {name} is {value!r}; needed: one number, or one a channel")
    return tuple(map(float, values))


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
