"""The public name of `find_minilm`, which README and the examples import; the code is in `files.weights`."""

from transformer_fast.files.weights import REQUIREMENT, SHA256, find_minilm

__all__ = ["REQUIREMENT", "SHA256", "find_minilm"]
