"""Models: one file a family. `load_model` finds the family of a Hugging Face folder by its model_type.

A new family is a new file here with a class that has `from_checkpoint(checkpoint)`, and a line in `_FAMILIES`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from transformer_fast.checkpoint import Checkpoint, CheckpointError
from transformer_fast.nn import Module

# model_type in config.json -> (file in this folder, class).
_FAMILIES = {"bert": ("bert", "BertModel")}

__all__ = ["CheckpointError", "load_model"]


def load_model(path: str | Path) -> Module:
    """The model in a folder with config.json and safetensors weights, ready to be called.

    Weights that the file holds as float32 stay in the mapped file until they are packed; others are converted to
    float32.

    Raises:
        CheckpointError: the folder is missing, its files are malformed, or the model is of a family that is not
        supported.

    Example:
        >>> model = load_model("all-MiniLM-L6-v2")                                                    # doctest: +SKIP
        >>> model(np.array([[101, 7592, 102]])).last_hidden_state.shape                               # doctest: +SKIP
        (1, 3, 384)
    """
    checkpoint = Checkpoint.open(path)
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'}: model_type is {model_type!r}; "
            f"supported: {', '.join(sorted(_FAMILIES))}"
        )
    file, name = _FAMILIES[model_type]
    return getattr(import_module(f"transformer_fast.models.{file}"), name).from_checkpoint(checkpoint)
