"""Cases as JSON and back: the runner names a case, and every process draws the same arrays from that name.

Used by runner.py and worker.py. A new kind of case is a frozen dataclass of plain fields, and a line in `_KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from cases import AttentionCase, LinearCase, MaxSimCase, generator


@dataclass(frozen=True)
class MaskCase:
    """Attention of L queries and L keys under a structure that structures.py has by name; B is 1.

    compiled: the mask is compiled to ranges before the call, which is then what is timed; False: in every call.
    """

    name: str
    structure: str
    H: int
    L: int
    D: int
    compiled: bool = True

    def make_inputs(self) -> list[np.ndarray]:
        """[query, key, value], each (1, H, L, D) float32 of N(0, 1); the same ones whatever `compiled` is."""
        rng = generator(self.name)
        return [rng.standard_normal((1, self.H, self.L, self.D), dtype=np.float32) for _ in range(3)]


@dataclass(frozen=True)
class PagedCase:
    """One query each of B sequences with `common` keys that are the same for all, and `own` ones after them.

    layout: "separate": contiguous keys of each sequence; "pages": of 64 in random order, every sequence its own;
    "shared": the common ones are pages that all sequences have.
    """

    name: str
    layout: str
    B: int
    H: int
    Hkv: int
    D: int
    common: int
    own: int

    def make_inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """query (B, H, 1, D); keys and values (2, Hkv, common, D) and (2, B, Hkv, own, D), float32 of N(0, 1): the
        same ones in every layout."""
        rng = generator(self.name)
        shapes = (
            (self.B, self.H, 1, self.D),
            (2, self.Hkv, self.common, self.D),
            (2, self.B, self.Hkv, self.own, self.D),
        )
        query, common, own = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
        return query, common, own


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


def _drawn_ids(name: str, shape: tuple[int, ...], vocab_size: int) -> np.ndarray:
    """int64 ids, none of which begins, pads or ends a row: families have those at either end of the vocabulary."""
    return generator(name).integers(10, vocab_size - 10, shape)


@dataclass(frozen=True)
class PrefillCase:
    """A decoder reads B prompts of L tokens: the logits that follow them, and what later steps need."""

    name: str
    model: str
    B: int
    L: int

    def make_ids(self, vocab_size: int) -> np.ndarray:
        """(B, L) int64."""
        return _drawn_ids(self.name, (self.B, self.L), vocab_size)


@dataclass(frozen=True)
class DecodeCase:
    """`steps` steps of a decoder for B rows with L tokens in the cache before the first; the time is one step's."""

    name: str
    model: str
    B: int
    L: int
    steps: int

    def make_ids(self, vocab_size: int) -> np.ndarray:
        """(B, L + steps) int64: what is in the cache, the same for all rows, and a column for each step."""
        ids = _drawn_ids(self.name, (self.B, self.L + self.steps), vocab_size)
        ids[:, : self.L] = ids[0, : self.L]
        return ids


@dataclass(frozen=True)
class GenerateCase:
    """`new` tokens after B prompts (or for B sources) of L tokens: greedy search, or `beams` beams."""

    name: str
    model: str
    B: int
    L: int
    new: int
    beams: int = 1

    def make_ids(self, vocab_size: int) -> np.ndarray:
        """(B, L) int64."""
        return _drawn_ids(self.name, (self.B, self.L), vocab_size)


@dataclass(frozen=True)
class FeaturesCase:
    """An encoder's hidden states of pictures or sound: `shape` is that of its input, the batch first."""

    name: str
    model: str
    shape: tuple[int, ...]

    def make_features(self) -> np.ndarray:
        """N(0, 1), float32, as normalised pixels and log-mel features nearly are."""
        return generator(self.name).standard_normal(self.shape).astype(np.float32)


@dataclass(frozen=True)
class ModuleCase:
    """A module of torch.nn (modules.py has them by name), `width` features, for B sequences of L tokens."""

    name: str
    module: str
    width: int
    B: int
    L: int


# The length of a token's vector in multi-vector models.
MULTI_VECTOR_DIM = 128


@dataclass(frozen=True)
class EncodeCase:
    """What a model makes of `count` documents of `tokens` tokens each, from the strings on.

    task: "rank": a score for each of them and one query; "sparse": vectors over the vocabulary; "multi_vector": one
    vector a token, MULTI_VECTOR_DIM long.
    """

    name: str
    model: str
    task: str
    count: int
    tokens: int
    batch_size: int = 32


@dataclass(frozen=True)
class SearchCase:
    """The k vectors of a corpus with the highest cosine to each query, by comparing all."""

    name: str
    queries: int
    vectors: int
    D: int
    k: int

    def make_inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """(queries, D) and (vectors, D) float32 of N(0, 1)."""
        rng = generator(self.name)
        shapes = ((self.queries, self.D), (self.vectors, self.D))
        queries, corpus = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
        return queries, corpus


Case = (
    AttentionCase
    | MaskCase
    | PagedCase
    | LinearCase
    | MaxSimCase
    | ModelCase
    | TextsCase
    | PrefillCase
    | DecodeCase
    | GenerateCase
    | FeaturesCase
    | ModuleCase
    | EncodeCase
    | SearchCase
)
_KINDS = {
    "attention": AttentionCase,
    "masked": MaskCase,
    "paged": PagedCase,
    "linear": LinearCase,
    "max_sim": MaxSimCase,
    "model": ModelCase,
    "texts": TextsCase,
    "prefill": PrefillCase,
    "decode": DecodeCase,
    "generate": GenerateCase,
    "features": FeaturesCase,
    "module": ModuleCase,
    "encode": EncodeCase,
    "search": SearchCase,
}
# Those whose case says everything: the other ones need a model's files.
_WITHOUT_ARTIFACTS = ("attention", "paged", "linear", "max_sim", "module", "search")


def operation(case: Case) -> str:
    """The name of the case's kind, and of the backends' method that prepares it."""
    return next(name for name, kind in _KINDS.items() if type(case) is kind)


def needs_artifacts(case: Case) -> bool:
    """Whether the backends' method takes the model's files, too."""
    return operation(case) not in _WITHOUT_ARTIFACTS


def to_json(case: Case) -> dict[str, Any]:
    """Its fields and its operation; the tags, which only choose cases, stay behind."""
    values = {f.name: getattr(case, f.name) for f in fields(case) if f.name != "tags"}
    return {"operation": operation(case), **values}


def from_json(message: dict[str, Any]) -> Case:
    """The case that `to_json` was given."""
    values = dict(message)
    kind = _KINDS[values.pop("operation")]
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
