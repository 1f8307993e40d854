"""Labels and their scores: what `TextClassifier` and `ImageClassifier` make of logits, as transformers' pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.pipelines.activations import sigmoid

_PROBLEMS = (None, "regression", "single_label_classification", "multi_label_classification")
FUNCTIONS = ("softmax", "sigmoid", "none")


def function_of(source: ModelSource, count: int) -> str:
    """How logits of `count` labels become scores: "softmax", "sigmoid" or "none", by problem_type in config.json.

    Raises:
        CheckpointError: problem_type is not known.
    """
    problem = source.object("config.json").get("problem_type")
    if problem not in _PROBLEMS:
        place = source.place("config.json")
        raise CheckpointError(f"{place}: problem_type is {problem!r}; supported: {', '.join(map(str, _PROBLEMS))}")
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or count == 1 else "softmax"


def scores(logits: np.ndarray, function: str) -> np.ndarray:
    """logits (B, n) -> scores (B, n).

    Raises:
        ValueError: the function is none of FUNCTIONS.
    """
    check_function(function)
    if function == "softmax":
        return F.softmax(logits)
    return sigmoid(logits) if function == "sigmoid" else logits


def ranked(scores: np.ndarray, names: tuple[str, ...], top_k: int | None) -> list[dict[str, Any]]:
    """The top_k labels (None: all) of scores (n,), as {"label", "score"}, the highest first."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": names[i], "score": float(scores[i])} for i in order]


def check_function(function: Any) -> None:
    """
    Raises:
        ValueError: the function is none of FUNCTIONS.
    """
    if function not in FUNCTIONS:
        raise ValueError(f"function_to_apply is {function!r}; needed: one of {', '.join(FUNCTIONS)}")


def check_top_k(top_k: Any) -> None:
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1):
        raise ValueError(f"top_k is {top_k!r}; needed: an integer >= 1, or None for all")
