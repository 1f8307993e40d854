"""Pipelines: from what a user has (texts, pictures, sound) to what a user wants, by one call of a folder's model.

Each is one class in one file, made by `from_pretrained(folder)` and called with one input or a list of them; the
results come in the order of the inputs. `texts` makes batches of texts of different lengths, and checks them; `labels`
makes scores of logits. A new pipeline is one more file and one more line here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.pipelines.fill_mask import FillMask
from transformer_fast.pipelines.image_classifier import ImageClassifier
from transformer_fast.pipelines.image_text import ImageTextSimilarity
from transformer_fast.pipelines.question_answerer import QuestionAnswerer
from transformer_fast.pipelines.sentence_encoder import SentenceEncoder
from transformer_fast.pipelines.text_classifier import TextClassifier
from transformer_fast.pipelines.text_to_text import Summariser, Translator
from transformer_fast.pipelines.token_tagger import TokenTagger
from transformer_fast.pipelines.transcriber import Transcriber

__all__ = [
    "FillMask",
    "ImageClassifier",
    "ImageTextSimilarity",
    "QuestionAnswerer",
    "SentenceEncoder",
    "Summariser",
    "TextClassifier",
    "TokenTagger",
    "Transcriber",
    "Translator",
    "load_classifier",
]

_IMAGE_TYPES = ("vit", "deit")


def load_classifier(
    path_or_hub_id: str | Path | ModelSource, *, compute_type: str = "auto", **hub: Any
) -> ImageClassifier | TextClassifier:
    """The classifier that a folder's model is for: of pictures where it is a ViT or DeiT, else of texts.

    compute_type and hub: as in `load_model`.

    Raises:
        CheckpointError: as `from_pretrained` of both.

    Example:
        >>> classify = load_classifier("distilbert-base-uncased-finetuned-sst-2-english")             # doctest: +SKIP
        >>> classify("What a day!")                                                                   # doctest: +SKIP
        {'label': 'POSITIVE', 'score': 0.99}
    """
    source = open_source(path_or_hub_id, **hub)
    seeing = source.object("config.json").get("model_type") in _IMAGE_TYPES
    return (ImageClassifier if seeing else TextClassifier).from_pretrained(source, compute_type=compute_type)
