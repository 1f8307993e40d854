"""A GGUF file's settings and tensors as a Hugging Face folder has them: config.json, and tensors by their names there.

`gguf_source` calls `config_of` and `tensors_of`; `gguf_architectures` has the names. Metadata that no table has goes
into config.json under its own name, so that the model refuses it by that name, as it refuses any field that it does not
know. Values that a file stores otherwise than a folder are changed when a tensor is read: a new kind of change is one
more class below.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError, listed
from transformer_fast.files.gguf import GgufFile
from transformer_fast.files.gguf_architectures import ARCHITECTURES, LONG_ROPE, ROPE_FACTORS, TOKEN_TYPES, Architecture
from transformer_fast.files.gguf_settings import Settings, plain
from transformer_fast.files.source import Tensor

# Beginnings of keys that say nothing of the computation: who made the file, from what, and how it was rounded.
_FACTORS = (ROPE_FACTORS, *LONG_ROPE.values())  # of rotary positions, which config.json has
_LAYER = re.compile(r"blk\.(\d+)\.(\w+(?:\.\w+)?)")  # a layer's number, and the tensor in it
_ABOUT = ("general.", "quantize.", "tokenizer.", "split.")


def architecture_of(file: GgufFile) -> tuple[str, Architecture]:
    """The architecture that a file names.

    Raises:
        CheckpointError: it names none, or one that is not supported.
    """
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"{file.path}: general.architecture is {name!r}; supported: {known}")
    return name, ARCHITECTURES[name]


def config_of(file: GgufFile) -> dict[str, Any]:
    """config.json as a folder of the same model has it.

    Raises:
        CheckpointError: what the model needs is missing, has another type or contradicts itself.
    """
    name, architecture = architecture_of(file)
    own = Settings(file, name)
    config: dict[str, Any] = {"model_type": architecture.model_type, "architectures": [architecture.model_class]}
    for key in architecture.needed:
        own.required(key)
    config |= {field: own.get(key) for key, field in architecture.fields.items() if own.get(key) is not None}
    architecture.complete(own, config)
    # A family's own defaults are not meant: a file without an end of text has none.
    for number in ("bos_token_id", "eos_token_id"):
        config[number] = file.metadata.get(f"tokenizer.ggml.{number}")
    if (padding := file.metadata.get("tokenizer.ggml.padding_token_id")) is not None:
        config["pad_token_id"] = padding
    known = {f"{name}.{key}" for key in (*architecture.fields, *architecture.checked)}
    return config | {
        key: plain(value) for key, value in file.metadata.items() if key not in known and not key.startswith(_ABOUT)
    }


# ----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _ChangedTensor(Tensor):
    """A tensor whose values a folder has in another form. stored: the file's own."""

    stored: Tensor | None = None

    def array(self) -> np.ndarray:
        return self._changed(self.stored.array())

    def floating(self) -> np.ndarray:
        return self._changed(self.stored.floating())

    def _changed(self, stored: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class _TurnedTensor(_ChangedTensor):
    """Rows of heads in the order of pairs, which are read in that of halves."""

    heads: int = 1

    def blocks(self) -> np.ndarray:
        """The bytes of each row, in that order; of a tensor in blocks alone."""
        return self._changed(self.stored.blocks())

    def _changed(self, stored: np.ndarray) -> np.ndarray:
        pairs = stored.reshape(self.heads, -1, 2, *stored.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(stored.shape)


@dataclasses.dataclass(frozen=True)
class _OffsetTensor(_ChangedTensor):
    """The weight of a norm, with 1 added. The family adds it again: what comes out is the file's value within 2^-25."""

    def _changed(self, stored: np.ndarray) -> np.ndarray:
        return stored.astype(np.float32) - np.float32(1)


@dataclasses.dataclass(frozen=True)
class _TransposedTensor(_ChangedTensor):
    """A matrix whose rows are a folder's columns."""

    def _changed(self, stored: np.ndarray) -> np.ndarray:
        return stored.T


def tensors_of(file: GgufFile, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under Hugging Face's names.

    Raises:
        CheckpointError: there is a tensor that the architecture's tables do not have.
    """
    _, architecture = architecture_of(file)
    found: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in file.tensors.items():
        if new := _name_of_experts(name, architecture):
            found |= {new.format(number): expert for number, expert in enumerate(_experts(tensor))}
        elif new := _renamed(name, architecture):
            found[new] = _changed(name, tensor, architecture, config)
        elif name not in _FACTORS:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"{file.path}: tensors that this model does not use: {listed(unknown)}")
    types = _renamed(TOKEN_TYPES, architecture)
    if types is not None and TOKEN_TYPES not in file.tensors:
        width = config["hidden_size"]
        found[types] = Tensor(TOKEN_TYPES, file.path, "F32", (1, width), np.zeros(4 * width, np.uint8))
    return found


def _renamed(name: str, architecture: Architecture) -> str | None:
    stem, dot, end = name.rpartition(".")
    if layer := _LAYER.fullmatch(name):
        number, part = layer.groups()
        if part in architecture.layer:
            return f"{architecture.layers}{number}.{architecture.layer[part]}"
        part = part.removesuffix(dot + end)
        if part in architecture.layer:
            return f"{architecture.layers}{number}.{architecture.layer[part]}{dot}{end}"
    return f"{architecture.tensors[stem]}{dot}{end}" if stem in architecture.tensors else None


def _name_of_experts(name: str, architecture: Architecture) -> str | None:
    """The new name of a tensor that stacks matrices of experts, {} for the expert's number; None for any other."""
    layer = _LAYER.fullmatch(name)
    stem, _, end = layer[2].partition(".") if layer else ("", "", "")
    return (
        f"{architecture.layers}{layer[1]}.{architecture.experts[stem]}.{end}" if stem in architecture.experts else None
    )


def _experts(tensor: Tensor) -> list[Tensor]:
    """The matrices or vectors that a tensor stacks. They are whole rows, so that blocks stay blocks."""
    if len(tensor.shape) < 2 or not tensor.data.size:
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name!r} has shape {tensor.shape}; needed: one matrix or vector an expert"
        )
    parts = tensor.data.reshape(tensor.shape[0], -1)
    return [dataclasses.replace(tensor, shape=tensor.shape[1:], data=part) for part in parts]


def _changed(name: str, tensor: Tensor, architecture: Architecture, config: Mapping[str, Any]) -> Tensor:
    """The tensor in the form that a folder has it in."""
    fields = {field.name: getattr(tensor, field.name) for field in dataclasses.fields(Tensor)}
    heads = _heads(name, config) if architecture.turned else 0
    if heads:
        if not tensor.shape or tensor.shape[0] % (2 * heads):
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name!r} has shape {tensor.shape}; needed: rows of {heads} heads"
            )
        return _TurnedTensor(**fields, stored=tensor, heads=heads)
    if architecture.offset and name.endswith("norm.weight"):
        return _OffsetTensor(**fields, stored=tensor)
    part = re.fullmatch(r"blk\.\d+\.(\w+)\.weight", name)
    if part and part[1] in architecture.transposed:
        return _TransposedTensor(**fields | {"shape": tensor.shape[::-1]}, stored=tensor)
    return tensor


def _heads(name: str, config: Mapping[str, Any]) -> int:
    """How many heads a tensor of queries or keys has; 0 for all others."""
    if re.match(r"blk\.\d+\.attn_q\.", name):
        return config["num_attention_heads"]
    if re.match(r"blk\.\d+\.attn_k\.", name):
        return config["num_key_value_heads"]
    return 0
