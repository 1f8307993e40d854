"""Cases as JSON and back: the runner names a case, and every process draws the same arrays from that name.

Used by runner.py and worker.py. A new kind of case is a frozen dataclass of plain fields, and a line in `_KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from cases import AttentionCase, LinearCase, generator


@dataclass(frozen=True)
class ModelCase:
    """An encoder's hidden states for B sequences of L tokens, without padding."""

    name: str
    model: str
    B: int
    L: int

    def make_ids(self, vocab_size: int) -> np.ndarray:
        """(B, L) int64, none of them a special token of BERT's vocabulary (those stand below 1,000)."""
        return generator(self.name).integers(1000, vocab_size, (self.B, self.L))


@dataclass(frozen=True)
class TextsCase:
    """Sentence embeddings of real texts, from the strings to vectors of length 1."""

    name: str
    model: str
    count: int
    batch_size: int = 32


Case = AttentionCase | LinearCase | ModelCase | TextsCase
_KINDS = {"attention": AttentionCase, "linear": LinearCase, "model": ModelCase, "texts": TextsCase}


def operation(case: Case) -> str:
    """The name of the case's kind, and of the backends' method that prepares it."""
    return next(name for name, kind in _KINDS.items() if type(case) is kind)


def to_json(case: Case) -> dict[str, Any]:
    """Its fields and its operation; the tags, which only choose cases, stay behind."""
    values = {f.name: getattr(case, f.name) for f in fields(case) if f.name != "tags"}
    return {"operation": operation(case), **values}


def from_json(message: dict[str, Any]) -> Case:
    """The case that `to_json` was given."""
    values = dict(message)
    kind = _KINDS[values.pop("operation")]
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
