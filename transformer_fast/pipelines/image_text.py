"""`ImageTextSimilarity`: how well texts fit pictures, by CLIP's two towers.

Users and `transformer-fast similarity` call it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.pictures import ImageProcessor
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer
from transformer_fast.models import PretrainedModel, load_model
from transformer_fast.models.clip import CLIPModel
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.pictures import in_batches, several_pictures
from transformer_fast.pipelines.texts import batches, padded, several


class ImageTextSimilarity:
    """Pictures and texts as vectors of one space, and how well they fit.

    Attributes:
        model: the CLIPModel.
        processor: the `files.pictures.ImageProcessor`.

    Example:
        >>> from transformer_fast.pipelines import ImageTextSimilarity
        >>> clip = ImageTextSimilarity.from_pretrained("openai/clip-vit-base-patch32")                # doctest: +SKIP
        >>> clip(["cat.jpg"], ["a photo of a cat", "a photo of a dog"]).round(2)                      # doctest: +SKIP
        array([[0.99, 0.01]], dtype=float32)
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer, processor: ImageProcessor) -> None:
        self.model = model
        self.processor = processor
        self._tokenizer = tokenizer
        most = model.config.text_config.max_position_embeddings
        self._max_length = min(tokenizer.max_length or most, most)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        **hub: Any,
    ) -> ImageTextSimilarity:
        """The model, tokenizer and image processor of a CLIP folder.

        compute_type, ignore_fields, packed_cache and hub: as in `load_model`.

        Raises:
            CheckpointError: there is no such folder, a file is malformed, or the model is one of another kind.
        """
        source = open_source(path_or_hub_id, **hub)
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
        model = load_model(source, **options)
        if not isinstance(model, CLIPModel):
            raise CheckpointError(f"{source}: holds a {type(model).__name__}; ImageTextSimilarity needs a CLIPModel")
        return cls(model, Tokenizer(source), ImageProcessor.from_pretrained(source))

    def __call__(self, images: Any, texts: str | list[str]) -> np.ndarray:
        """(images, texts): for each picture, how probable each of the texts is, as if it had to be one of them.

        Raises:
            TypeError, ValueError: an argument is of a wrong kind, or empty.
            OSError: a picture's file cannot be read.
        """
        return self.compare(images, texts)[1]

    def compare(self, images: Any, texts: str | list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The cosines between pictures and texts, (images, texts), -1 to 1; and the result of calling this."""
        cosines = F.linear(self.encode_images(images), self.encode_texts(texts))
        return cosines, F.softmax(cosines * np.exp(self.model.logit_scale))

    def encode_images(self, images: Any) -> np.ndarray:
        """(N, dim): a vector of length 1 for each picture: paths, PIL images or uint8 arrays, one or several."""
        pictures, _ = several_pictures(images)
        rows = in_batches(pictures, lambda some: self.model.get_image_features(**self.processor(some)))
        return _normalized(np.concatenate(rows))

    def encode_texts(self, texts: str | list[str]) -> np.ndarray:
        """(N, dim): a vector of length 1 for each text. Longer texts than the model takes are cut off."""
        inputs = several("texts", texts)
        if not inputs:
            raise ValueError("texts is empty; needed: at least one text")
        encodings = self._tokenizer.encode_batch(inputs, max_length=self._max_length)
        rows = np.empty((len(inputs), self.model.config.projection_dim), np.float32)
        for indices in batches([len(encoding) for encoding in encodings]):
            rows[indices] = self.model.get_text_features(*padded([encodings[i] for i in indices]))
        return _normalized(rows)


def _normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt(np.add.reduce(rows * rows, axis=1, keepdims=True))
