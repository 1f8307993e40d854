"""Pipelines: from what a user has (texts, pictures, sound) to what a user wants, by one call of a folder's model.

Each is one class in one file, made by `from_pretrained(folder)` and called with one input or a list of them; the
results come in the order of the inputs. What several texts of different lengths have in common, batches and checks,
stands in texts.py; labels and their scores in labels.py. A new pipeline is one more file and one more line here.
"""

from transformer_fast.pipelines.fill_mask import FillMask
from transformer_fast.pipelines.image_classifier import ImageClassifier
from transformer_fast.pipelines.image_text import ImageTextSimilarity
from transformer_fast.pipelines.question_answerer import QuestionAnswerer
from transformer_fast.pipelines.text_classifier import TextClassifier
from transformer_fast.pipelines.token_tagger import TokenTagger

__all__ = [
    "FillMask",
    "ImageClassifier",
    "ImageTextSimilarity",
    "QuestionAnswerer",
    "TextClassifier",
    "TokenTagger",
]
