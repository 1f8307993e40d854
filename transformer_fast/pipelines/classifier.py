"""`load_classifier`: the classifier of pictures or texts that a model is for; `transformer-fast classify` calls it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.image_classifier import ImageClassifier
from transformer_fast.pipelines.text_classifier import TextClassifier

_IMAGE_TYPES = ("vit", "deit")


def load_classifier(
    path_or_hub_id: str | Path | ModelSource,
    *,
    compute_type: ComputeType = "auto",
    ignore_fields: Collection[str] = (),
    packed_cache: str | Path | None = None,
    **hub: Any,
) -> ImageClassifier | TextClassifier:
    """The classifier that a folder's model is for: of pictures where it is a ViT or DeiT, else of texts.

    compute_type, ignore_fields, packed_cache and hub: as in `load_model`.

    Raises:
        CheckpointError: as `from_pretrained` of both.

    Example:
        >>> classify = load_classifier("distilbert-base-uncased-finetuned-sst-2-english")             # doctest: +SKIP
        >>> classify("What a day!")                                                                   # doctest: +SKIP
        {'label': 'POSITIVE', 'score': 0.99}
    """
    source = open_source(path_or_hub_id, **hub)
    seeing = source.object("config.json").get("model_type") in _IMAGE_TYPES
    kind = ImageClassifier if seeing else TextClassifier
    options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
    return kind.from_pretrained(source, **options)
