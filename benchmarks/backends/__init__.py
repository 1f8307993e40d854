"""The peers, one file each; each runs in a process of its own (worker.py), which imports its file and no other.

A backend is a class with the methods of `Backend`, under the name BACKEND in its file. A method that prepares a case
gives one or several variants: ways of saying the same to the peer, of which the fastest right one is what is
measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.wire import (
    AttentionCase,
    DecodeCase,
    EncodeCase,
    FeaturesCase,
    GenerateCase,
    LinearCase,
    MaskCase,
    MaxSimCase,
    ModelCase,
    ModuleCase,
    PagedCase,
    PrefillCase,
    SearchCase,
    TextsCase,
)

# The numbers that products work with. Others: "int8" (weights and activations), "int8_a16" (ours), "bfloat16" (ours),
# "int8_weights" (OpenVINO's models of which only the weights are stored so), "int4" (ours), and formats of GGUF files:
# "Q8_0", "Q4_0", "Q4_K".
FLOAT32 = "float32"
NAMES = (
    "ours",
    "numpy",
    "torch",
    "flex_attention",
    "onnxruntime",
    "openvino",
    "ctranslate2",
    "llama_cpp",
    "sentence_transformers",
)


class Unsupported(Exception):
    """The peer has nothing for this case; the text says why."""


@dataclass(frozen=True)
class Variant:
    """One way to compute a case. `read` turns what `call` returned into the array that all peers are compared by.

    parts: how many of what the case is about (steps of a decoder) one call does; the time is that of one.
    """

    name: str
    call: Callable[[], Any]
    read: Callable[[Any], np.ndarray] = np.asarray
    parts: int = 1


def converted(artifacts: dict[str, Any], form: str) -> str:
    """The path of the model in that form (artifacts.py). Raises Unsupported where the conversion failed."""
    if form not in artifacts:
        raise Unsupported(f"the model was not converted to {form}")
    return artifacts[form]


class Backend:
    """A peer on a number of threads. What it does not override, it does not have."""

    # The distributions whose versions belong into a result.
    packages: tuple[str, ...] = ()
    # What the worker may set `compute_type` to before the first case.
    compute_types: tuple[str, ...] = (FLOAT32,)
    compute_type: str = FLOAT32

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def settings(self) -> dict[str, Any]:
        """How the peer is configured, for the result file."""
        return {}

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in self.packages}

    def attention(self, case: AttentionCase) -> list[Variant]:
        """Results (B, H, Lq, Dv)."""
        raise Unsupported("has no attention function of its own")

    def masked(self, case: MaskCase, artifacts: dict[str, Any]) -> list[Variant]:
        """Results (1, H, L, D). `artifacts` as `structures.tables` gives them."""
        raise Unsupported("takes no mask in attention")

    def paged(self, case: PagedCase) -> list[Variant]:
        """Results (B, H, 1, D)."""
        raise Unsupported("reads no keys in pages")

    def linear(self, case: LinearCase) -> list[Variant]:
        """Results (M, N). The weight may be prepared beforehand, the input may not."""
        raise Unsupported("has no linear function of its own")

    def max_sim(self, case: MaxSimCase) -> list[Variant]:
        """Results (queries, documents)."""
        raise Unsupported("has no late interaction")

    def model(self, case: ModelCase, artifacts: dict[str, Any]) -> list[Variant]:
        """Results (B, L, h): hidden states of the last layer. `artifacts` as in artifacts.py."""
        raise Unsupported("runs no such model")

    def texts(self, case: TextsCase, artifacts: dict[str, Any]) -> list[Variant]:
        """Results (count, h) of length 1, in the order of the texts."""
        raise Unsupported("embeds no texts")

    def prefill(self, case: PrefillCase, artifacts: dict[str, Any]) -> list[Variant]:
        """Results (B, V): logits after the last token. The call leaves what a first step would need."""
        raise Unsupported("runs no decoder whose logits it gives")

    def decode(self, case: DecodeCase, artifacts: dict[str, Any]) -> list[Variant]:
        """Results (B, V): logits after the last step. Each call begins with L tokens in the cache."""
        raise Unsupported("runs no decoder step by step")

    def generate(self, case: GenerateCase, artifacts: dict[str, Any]) -> list[Variant]:
        """Results (B, new): the ids."""
        raise Unsupported("generates no text")

    def features(self, case: FeaturesCase, artifacts: dict[str, Any]) -> list[Variant]:
        """Results (B, L, h): hidden states of the last layer, after its norm."""
        raise Unsupported("runs no such model")

    def module(self, case: ModuleCase) -> list[Variant]:
        """Results (B, n): all outputs of a row in a line, as modules.py's `read` gives them."""
        raise Unsupported("has no such module")

    def encode(self, case: EncodeCase, artifacts: dict[str, Any]) -> list[Variant]:
        """Results (count, 1) of the task "rank", (count, V) of "sparse", (rows of all texts, dim) of "multi_vector"."""
        raise Unsupported("reads no texts")

    def search(self, case: SearchCase) -> list[Variant]:
        """Results (queries, k): the scores, the highest first."""
        raise Unsupported("has no search")
