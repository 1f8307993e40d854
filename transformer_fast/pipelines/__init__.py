"""Pipelines: from what a user has (texts, pictures, sound) to what a user wants, by one call of a folder's model.

Each is one class in one file, made by `from_pretrained(folder)` and called with one input or a list of them; the
results come in the order of the inputs. `texts` and `text_runs` make batches of texts of different lengths, and check
them; `labels` and `activations` make scores of logits; `sentence_*`, `sparse_*` and `multi_vector_*` read the folders
of sentence-transformers, and `pair_models` the models of `CrossEncoder`. A new pipeline is one more file and one more
line here. A file is imported when its class is first asked for: `SentenceEncoder` needs no models of pictures or sound.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformer_fast.pipelines.attentions import text_attention
    from transformer_fast.pipelines.bge_m3 import BGEM3Encoder
    from transformer_fast.pipelines.classifier import load_classifier
    from transformer_fast.pipelines.cross_encoder import CrossEncoder
    from transformer_fast.pipelines.fill_mask import FillMask
    from transformer_fast.pipelines.image_classifier import ImageClassifier
    from transformer_fast.pipelines.image_text import ImageTextSimilarity
    from transformer_fast.pipelines.multi_vector_encoder import MultiVectorEncoder
    from transformer_fast.pipelines.question_answerer import QuestionAnswerer
    from transformer_fast.pipelines.sentence_encoder import SentenceEncoder, TruncationWarning
    from transformer_fast.pipelines.sparse_encoder import SparseEncoder
    from transformer_fast.pipelines.text_classifier import TextClassifier
    from transformer_fast.pipelines.text_to_text import Summariser, Translator
    from transformer_fast.pipelines.token_pooling import HierarchicalTokenPooling, LambdaTokenPooling
    from transformer_fast.pipelines.token_tagger import TokenTagger
    from transformer_fast.pipelines.transcriber import Transcriber

__all__ = [
    "BGEM3Encoder",
    "CrossEncoder",
    "FillMask",
    "HierarchicalTokenPooling",
    "ImageClassifier",
    "ImageTextSimilarity",
    "LambdaTokenPooling",
    "MultiVectorEncoder",
    "QuestionAnswerer",
    "SentenceEncoder",
    "SparseEncoder",
    "Summariser",
    "TextClassifier",
    "TokenTagger",
    "Transcriber",
    "Translator",
    "TruncationWarning",
    "load_classifier",
    "text_attention",
]

# Public name -> file in this folder.
_FILES = {
    "BGEM3Encoder": "bge_m3",
    "CrossEncoder": "cross_encoder",
    "FillMask": "fill_mask",
    "HierarchicalTokenPooling": "token_pooling",
    "ImageClassifier": "image_classifier",
    "ImageTextSimilarity": "image_text",
    "LambdaTokenPooling": "token_pooling",
    "MultiVectorEncoder": "multi_vector_encoder",
    "QuestionAnswerer": "question_answerer",
    "SentenceEncoder": "sentence_encoder",
    "SparseEncoder": "sparse_encoder",
    "Summariser": "text_to_text",
    "TextClassifier": "text_classifier",
    "TokenTagger": "token_tagger",
    "Transcriber": "transcriber",
    "Translator": "text_to_text",
    "TruncationWarning": "sentence_encoder",
    "load_classifier": "classifier",
    "text_attention": "attentions",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
