"""Names of a checkpoint's tensors that are not the family's own: prefixes of wrappers, heads of other classes, copies.

`base.PretrainedModel.from_checkpoint` calls these functions before it takes the tensors. A wrapper that puts a prefix
before all names goes into `_WRAPPERS`, a tool that adds a head of its own into `_STRANGERS`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError, listed
from transformer_fast.files.source import Tensor

# Prefixes of modules that hold the model and nothing else: torch's DataParallel, compile, FSDP and checkpoints of
# activations; PEFT; sentence-transformers; the language model of a model that also sees; a trainer's own class.
_WRAPPERS = (
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "base_model.",
    "0.",
    "auto_model.",
    "language_model.",
    "backbone.",
    "encoder_model.",
    "model.",
)
_MOST_WRAPPERS = 6  # "base_model.model.model." has three; a file with more than these is hostile

# Beginning of a tensor's name -> whose it is.
_STRANGERS = {
    "v_head.": "the value head of TRL's AutoModelForCausalLMWithValueHead",
    "linear.weight": "the projection of a ColBERT model, for PyLate or colbert-ai",
}

_BLOCK = 1 << 22


def unwrapped(checkpoint: Checkpoint, model: Any) -> Checkpoint:
    """The checkpoint under the names of the class `model`, without prefixes of wrappers.

    Raises:
        CheckpointError: there are no layers under any known prefix; or two tensors would have one name.
    """
    renamed, names = checkpoint.renamed(model.canonical), list(checkpoint.tensors)
    if not model.stacks or _has_layers(renamed, model):
        return renamed
    wrapped = checkpoint
    for _ in range(_MOST_WRAPPERS):
        prefix = next((p for p in _WRAPPERS if any(name.startswith(p) for name in wrapped.tensors)), None)
        if prefix is None:
            break
        wrapped = wrapped.renamed(lambda name, prefix=prefix: name.removeprefix(prefix))
        found = wrapped.renamed(model.canonical)
        if _has_layers(found, model):
            return found
    layer = f"{model.base_prefix}{next(iter(model.stacks))}0."
    begin = re.match(r"(.*\.)?", os.path.commonprefix(names))[0]
    told = f"all names begin with {begin!r}" if begin else f"names are {listed(names)}" if names else "it is empty"
    raise CheckpointError(
        f"{checkpoint.source.weights}: holds no tensors of {model.__name__}; {told}; "
        f"needed: {layer!r}..., alone or after {' '.join(_WRAPPERS)}"
    )


def _has_layers(checkpoint: Checkpoint, model: Any) -> bool:
    layers = re.compile("|".join(re.escape(prefix) + r"\d+\." for prefix in model.stacks))
    return any(layers.match(name) for name in checkpoint.tensors)


def check_used(checkpoint: Checkpoint, expected: Mapping[str, Any], model: Any) -> None:
    """A CheckpointError where tensors are left over, as in `Checkpoint.take`, that says who reads them."""
    names = [name for name in checkpoint.tensors if name not in expected and not name.startswith(model.ignored)]
    readers = {name: reader for name in names if (reader := _reader(name, model))}
    if not readers or any(name not in checkpoint.tensors for name in expected):
        return
    told = ", ".join(f"{checkpoint.tensors[name].name!r} ({reader})" for name, reader in readers.items())
    others = [checkpoint.tensors[name].name for name in names if name not in readers]
    raise CheckpointError(
        f"{checkpoint.source.weights}: tensors that this model does not use: {told}"
        f"{', ' + listed(others) if others else ''}; needed: a file without them"
    )


def _reader(name: str, model: Any) -> str | None:
    """What reads a tensor that the class `model` does not."""
    for prefix, reader in _STRANGERS.items():
        if name.startswith(prefix):
            return reader
    siblings = (value for value in vars(sys.modules[model.__module__]).values() if isinstance(value, type))
    classes = [
        other.__name__
        for other in siblings
        if getattr(other, "model_types", None) == model.model_types
        and getattr(other, "head_prefixes", ())
        and name.startswith(other.head_prefixes)
    ]
    return f"for {' or '.join(classes)}" if classes else None


def is_copy(tensor: Tensor, other: Tensor) -> bool:
    """Do two tensors have the same type, shape and bytes? Others differ in the first block, as a rule."""
    if (tensor.code, tensor.shape) != (other.code, other.shape):
        return False
    starts: Collection[int] = range(0, len(tensor.data), _BLOCK)
    return all(np.array_equal(tensor.data[i : i + _BLOCK], other.data[i : i + _BLOCK]) for i in starts)
