"""`ImageClassifier`: labels for pictures. Users and `transformer-fast classify` call it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.pictures import ImageProcessor
from transformer_fast.files.source import ModelSource
from transformer_fast.models import PretrainedModel, load_model
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.models.vit import ViTForImageClassification
from transformer_fast.pipelines.labels import check_top_k, function_of, ranked, scores
from transformer_fast.pipelines.pictures import in_batches, several_pictures


class ImageClassifier:
    """Pictures in; labels and their scores out. As transformers' image-classification pipeline.

    Attributes:
        model: the model (`models.vit`).
        processor: the `files.pictures.ImageProcessor`.
        labels: the names of the labels, by number.
        function: how logits become scores, "softmax", "sigmoid" or "none", as config.json says by problem_type.

    Example:
        >>> from transformer_fast.pipelines import ImageClassifier
        >>> classifier = ImageClassifier.from_pretrained("google/vit-base-patch16-224")               # doctest: +SKIP
        >>> classifier("cat.jpg", top_k=1)                                                            # doctest: +SKIP
        [{'label': 'tabby, tabby cat', 'score': 0.93}]
    """

    def __init__(self, model: PretrainedModel, processor: ImageProcessor, function: str = "softmax") -> None:
        self.model = model
        self.processor = processor
        self.labels = model.config.labels
        self.function = function

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        **hub: Any,
    ) -> ImageClassifier:
        """The classifier of a model folder, or of a model on the Hugging Face hub.

        compute_type, ignore_fields, packed_cache and hub: as in `load_model`.

        Raises:
            CheckpointError: there is no such folder, a file is malformed, or the model is one of another kind.
        """
        source = open_source(path_or_hub_id, **hub)
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
        model = load_model(source, **options)
        if not isinstance(model, ViTForImageClassification):
            raise CheckpointError(
                f"{source}: holds a {type(model).__name__}; ImageClassifier needs a ViT or DeiT for classification"
            )
        return cls(model, ImageProcessor.from_pretrained(source), function_of(source, model.config.label_count))

    def __call__(self, images: Any, *, top_k: int | None = 5, function_to_apply: str | None = None) -> list[Any]:
        """The top_k labels (None: all) of one picture, a list of {"label", "score"}, or of each of several.

        images: a path, a PIL image, a uint8 array (see `ImageProcessor`), or a list of such. Pictures from files are
        turned as their EXIF orientation says, and converted to RGB; so are PIL images.

        Raises:
            TypeError, ValueError: an argument is of a wrong kind or out of range.
            OSError: a file cannot be read.
        """
        check_top_k(top_k)
        pictures, single = several_pictures(images)
        logits = in_batches(pictures, lambda some: self.model(**self.processor(some)).logits)
        rows = scores(np.concatenate(logits), self.function if function_to_apply is None else function_to_apply)
        results = [ranked(row, self.labels, top_k) for row in rows]
        return results[0] if single else results
