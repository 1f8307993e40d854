"""Shared by the pipelines on pictures: pictures from paths, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.pictures import load_image, pillow, upright

# Pictures that run together: some 200 tokens each, enough to keep the threads of a machine busy.
_BATCH = 16


def several_pictures(images: Any) -> tuple[list[Any], bool]:
    """The pictures as a list, and whether one was given without a list.

    Raises:
        TypeError, ValueError: it is no picture, and no list of pictures; or there are none.
    """
    if isinstance(images, (str, Path, pillow().Image)) or (isinstance(images, np.ndarray) and images.ndim <= 3):
        return [images], True
    if isinstance(images, (bytes, Mapping)) or not isinstance(images, Iterable):
        raise TypeError(f"images is a {type(images).__name__}; needed: a path, a PIL image, an array, or several")
    pictures = list(images)
    if not pictures:
        raise ValueError("images is empty; needed: at least one picture")
    return pictures, False


def in_batches(pictures: list[Any], run: Callable[[list[Any]], np.ndarray]) -> list[np.ndarray]:
    """The results of `run` for each batch of pictures; files are read when their batch comes."""
    return [run([_read(p) for p in pictures[i : i + _BATCH]]) for i in range(0, len(pictures), _BATCH)]


def _read(picture: Any) -> Any:
    if isinstance(picture, (str, Path)):
        return load_image(picture)
    return upright(picture) if isinstance(picture, pillow().Image) else picture
