"""`Folder`: a model folder in Hugging Face's layout as a `ModelSource`; and where models are found.

`models`, `pipelines`, `generation`, `pictures` and `sound` call `open_source` with a path, a name on the Hugging Face
hub, or a source that is already open. Weights are safetensors, one file or sharded; pickle-based
ones are refused. Another kind of source is another class (see `source`) and a line in `open_source`;
another kind of weights in a folder starts at `Folder.weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.gguf_source import GgufSource
from transformer_fast.files.json_files import member, read_bytes
from transformer_fast.files.safetensors import read_safetensors, read_sharded
from transformer_fast.files.source import ModelSource, Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin.index.json")

# Files of other types may hold pickles or scripts; they are not fetched from the hub.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja"]


def open_source(path_or_hub_id: str | Path | ModelSource, **hub: Any) -> ModelSource:
    """The source at a path or with a name on the Hugging Face hub; an open source is returned as it is.

    hub: the options of `find_folder`.

    Raises:
        CheckpointError: there is no such source.
    """
    if isinstance(path_or_hub_id, ModelSource):
        return path_or_hub_id
    path = find_model(path_or_hub_id, **hub)
    return GgufSource(path) if path.is_file() else Folder(path)


def find_model(path_or_hub_id: str | Path, **hub: Any) -> Path:
    """The file of that path that ends in .gguf; else as `find_folder`."""
    path = Path(path_or_hub_id)
    return path if path.suffix == ".gguf" and path.is_file() else find_folder(path_or_hub_id, **hub)


def find_folder(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of that path; else the snapshot of the repository "org/name" of the Hugging Face hub, in its cache.

    The options are those of huggingface_hub.snapshot_download. A text that can only be a path is not looked up on the
    hub.

    Raises:
        CheckpointError: there is neither such a folder nor such a repository.
    """
    folder, name = Path(path_or_hub_id), str(path_or_hub_id)
    if folder.is_dir():
        return folder
    if isinstance(path_or_hub_id, Path) or folder.exists() or name[:1] in "./~" or "\\" in name or name.count("/") > 1:
        raise CheckpointError(f"{name!r}: there is no such folder; needed: a folder with config.json and {WEIGHTS}")
    hub = optional_import("huggingface_hub")
    try:
        return Path(
            hub.snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=_HUB_FILES,
            )
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{name!r} is no folder here, and no model that the hub gives: {reason[0]}") from error


class Folder(ModelSource):
    """A folder with config.json, safetensors weights, and the small files that say how inputs are made.

    Raises:
        CheckpointError: there is no such folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise CheckpointError(f"{path}: there is no such folder; needed: a folder with config.json and {WEIGHTS}")

    def __str__(self) -> str:
        return str(self.path)

    def __reduce__(self) -> tuple:
        return Folder, (self.path.absolute(),)

    def read(self, name: str) -> bytes | None:
        path = self.path / name
        return read_bytes(path) if path.exists() else None

    def names(self, folder: str) -> list[str]:
        return sorted(f"{folder}/{path.name}" for path in (self.path / folder).glob("*") if path.is_file())

    def tensors(self) -> Mapping[str, Tensor]:
        return self._tensors

    @cached_property
    def weights(self) -> Path:
        """The single file of weights, else the index of the shards."""
        for name in (WEIGHTS, INDEX):
            if (self.path / name).is_file():
                return self.path / name
        pickled = sorted(path.name for pattern in _PICKLED for path in self.path.glob(pattern))
        if pickled:
            raise CheckpointError(
                f"{self.path / pickled[0]}: pickle-based weights are refused, since reading them can run code that "
                f"they hold; needed: {WEIGHTS} (`safetensors.torch.save_file`, or a repository that has it)"
            )
        raise CheckpointError(f"{self.path}: there are no weights; needed: {WEIGHTS} or {INDEX}")

    def place(self, name: str) -> Path:
        return self.path / name

    def part(self, name: Any, told_by: str) -> Folder:
        return Folder(member(self.path, name, self.place(told_by)))

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        return read_sharded(self.weights) if self.weights.name == INDEX else read_safetensors(self.weights)
