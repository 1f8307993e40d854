"""`Checkpoint`: config.json and tensors of a model, taken strictly; and `save_checkpoint`, which writes a folder.

`models` opens one, takes its tensors by name, and hands what it has to write to `save_checkpoint`. Files are not
trusted: a malformed, missing, unused or misshapen tensor is a CheckpointError that names the file and the tensor.
Tensors are read-only views of the mapped file, so that opening a checkpoint copies nothing. Where settings and tensors
come from is the business of a `ModelSource`; a new kind of it is added in `source` and `folder`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError, listed, optional_import
from transformer_fast.files.folder import WEIGHTS, Folder
from transformer_fast.files.json_files import write_json
from transformer_fast.files.source import ModelSource, Tensor


@dataclass(frozen=True)
class Checkpoint:
    """A model's config.json, and its tensors by name.

    Attributes:
        source: where both come from; further settings are read through it.
        config: the content of config.json.
        tensors: the tensors, under the names that `renamed` gave them.
    """

    source: ModelSource
    config: dict[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, source: str | Path | ModelSource) -> Checkpoint:
        """Read config.json and the headers of the weights of a source, or of a folder.

        Raises:
            CheckpointError: as the file's docstring says.
        """
        if not isinstance(source, ModelSource):
            source = Folder(source)
        return cls(source, source.object("config.json"), source.tensors())

    def renamed(self, rename: Callable[[str], str]) -> Checkpoint:
        """The same checkpoint under other names; errors still give the tensor's name in the file."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            other = tensors.setdefault(rename(name), tensor)
            if other is not tensor:
                raise CheckpointError(
                    f"{tensor.file}: tensors {other.name!r} and {name!r} both mean {rename(name)!r}; needed: one"
                )
        return replace(self, tensors=tensors)

    def take(self, expected: Mapping[str, tuple[int, ...]], ignore: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """The tensors of `expected` (name -> shape) as read-only arrays in the type of the file.

        A tensor that is not expected is an error, unless its name starts with one of `ignore`.

        Raises:
            CheckpointError: a tensor is missing, unexpected, misshapen or not of a floating-point type.
        """
        missing = [name for name in expected if name not in self.tensors]
        if missing:
            raise CheckpointError(f"{self.source.weights}: missing tensors: {listed(missing)}")
        unused = [t.name for name, t in self.tensors.items() if name not in expected and not name.startswith(ignore)]
        if unused:
            raise CheckpointError(f"{self.source.weights}: tensors that this model does not use: {listed(unused)}")
        for name, shape in expected.items():
            tensor = self.tensors[name]
            if tensor.shape != tuple(shape):
                raise CheckpointError(
                    f"{tensor.file}: tensor {tensor.name!r} has shape {tensor.shape}; "
                    f"needed by config.json: {tuple(shape)}"
                )
        return {name: self.tensors[name].floating() for name in expected}


def save_checkpoint(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write config.json and model.safetensors (float32; int8 as it is) into `folder`, which is made if it is not there.

    Each file appears under its name when it is complete: tensors may be views of the file that is replaced.
    """
    library = optional_import("safetensors.numpy")
    folder.mkdir(parents=True, exist_ok=True)
    types = {name: np.int8 if array.dtype == np.int8 else np.float32 for name, array in tensors.items()}
    dense = {name: np.asarray(array, types[name], order="C") for name, array in tensors.items()}
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        written = Path(unfinished)
        # transformers refuses files that do not say for which framework they were written.
        library.save_file(dense, written / WEIGHTS, metadata={"format": "pt"})
        write_json(written / "config.json", config)
        shutil.copymode(
            written / "config.json", written / WEIGHTS
        )  # the library makes files that only their owner reads
        for name in (WEIGHTS, "config.json"):
            os.replace(written / name, folder / name)
