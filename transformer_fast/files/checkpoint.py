"""Reads a Hugging Face folder: config.json and the weights in safetensors, one file or sharded; and writes one.

`models` calls `find_folder` and `Checkpoint.open(folder)`, takes its tensors by name, and hands what it has to write to
`save_checkpoint`; `text` uses `read_json` and `member` for the small files beside the weights. Files are not trusted:
whatever is malformed, missing, unused or misshapen is a CheckpointError that names the file and the tensor, and
pickle-based weights are refused. Tensors are read-only views of the mapped file, so that opening a checkpoint copies
nothing.

To add a tensor type, add its safetensors code to `_DTYPES`; to add a way in which weights are stored, see
`_weight_files`.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, then the tensors' bytes).
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any

import numpy as np

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin.index.json")

# safetensors code -> NumPy type; the format is little-endian. BF16 comes from ml_dtypes (see _dtype).
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
# Nothing that a pickle or a script could hide in is fetched from the hub.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]

_FLOATS = ("F64", "F32", "F16", "BF16")
_NAMES_SHOWN = 8


class CheckpointError(ValueError):
    """A model folder that cannot be used; the text names the file and, where there is one, the tensor or the field."""


def optional_import(name: str) -> ModuleType:
    """A module of the extra `models`.

    Raises:
        ImportError: it is not installed; the text says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed; needed: pip install 'transformer-fast[models]'") from error


def find_folder(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of that path; else the snapshot of the repository "org/name" of the Hugging Face hub, in its cache.

    The options are those of huggingface_hub.snapshot_download. What can only be a path is not asked for on the hub.

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


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Stricter than the json module: a key that stands twice, NaN and Infinity are errors, since readers disagree on them.

    Raises:
        CheckpointError: the file is missing, unreadable or not JSON.
    """
    try:
        return _parse_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """As `read_json`, for a file that must hold a JSON object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(content).__name__}; needed: an object")
    return content


def member(folder: Path, name: Any, source: Path) -> Path:
    """The file or folder `name` inside `folder`, where `name` was read from `source`.

    Only the text of the name is looked at: the Hugging Face cache keeps its files as links that point out of the
    folder.

    Raises:
        CheckpointError: the name is no relative path, or it leads out of the folder.
    """
    if not isinstance(name, str):
        raise CheckpointError(f"{source}: {name!r} is no file name; needed: a string")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise CheckpointError(f"{source}: the name {name!r} points outside the folder; needed: a name inside of it")
    return folder / posix


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint: what the header says, and its bytes in the mapped file."""

    name: str
    file: Path
    code: str
    shape: tuple[int, ...]
    data: np.ndarray

    def array(self) -> np.ndarray:
        """The tensor as a read-only view of the file (a copy only where the file does not align it)."""
        view = self.data.view(_dtype(self)).reshape(self.shape)
        if view.flags.aligned:
            return view
        view = view.copy()
        view.flags.writeable = False
        return view

    def floating(self) -> np.ndarray:
        """As `array`, for a tensor that must be of a floating-point type: float64, float32, float16 or bfloat16."""
        if self.code not in _FLOATS:
            raise CheckpointError(
                f"{self.file}: tensor {self.name!r} has type {self.code}; needed: one of {', '.join(_FLOATS)}"
            )
        return self.array()


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: its config.json and its tensors by name.

    `source` is the file that says which tensors there are: the one weights file, or the index of a sharded checkpoint.
    """

    folder: Path
    config: dict[str, Any]
    source: Path
    tensors: dict[str, Tensor]

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Reads config.json and the headers of the weights in `folder`.

        Raises:
            CheckpointError: as the file's docstring says.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: there is no such folder; needed: a folder with config.json and {WEIGHTS}")
        config = read_json_object(folder / "config.json")
        source = _weight_files(folder)
        tensors = _read_sharded(source) if source.name == INDEX else _read_safetensors(source)
        return cls(folder, config, source, tensors)

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
            raise CheckpointError(f"{self.source}: missing tensors: {_listed(missing)}")
        unused = [t.name for name, t in self.tensors.items() if name not in expected and not name.startswith(ignore)]
        if unused:
            raise CheckpointError(f"{self.source}: tensors that this model does not use: {_listed(unused)}")
        for name, shape in expected.items():
            tensor = self.tensors[name]
            if tensor.shape != tuple(shape):
                raise CheckpointError(
                    f"{tensor.file}: tensor {tensor.name!r} has shape {tensor.shape}; "
                    f"needed by config.json: {tuple(shape)}"
                )
        return {name: self.tensors[name].floating() for name in expected}

    def release(self) -> None:
        """Gives the memory of the mapped files back: their pages come from the file again when a tensor is next read.

        For after loading, when packed weights stand beside the tensors that they were made of. Where the system has no
        such call, nothing happens.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        maps = (_mapping(tensor.data) for tensor in self.tensors.values())
        for mapping in {id(mapping): mapping for mapping in maps if mapping is not None}.values():
            mapping.madvise(mmap.MADV_DONTNEED)
            # From now on single rows of embeddings are read: without this, each brings its neighbourhood along.
            mapping.madvise(mmap.MADV_RANDOM)


def _mapping(data: np.ndarray) -> mmap.mmap | None:
    """The map that an array is a view of."""
    base: Any = data
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, for people to read."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_checkpoint(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes config.json and model.safetensors into `folder`, which is made if it is not there.

    Each file appears under its name when it is complete: tensors may be views of the file that is replaced.
    """
    library = optional_import("safetensors.numpy")
    folder.mkdir(parents=True, exist_ok=True)
    dense = {name: np.asarray(array, np.float32, order="C") for name, array in tensors.items()}
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        written = Path(unfinished)
        # transformers refuses files that do not say for which framework they were written.
        library.save_file(dense, written / WEIGHTS, metadata={"format": "pt"})
        write_json(written / "config.json", config)
        for name in (WEIGHTS, "config.json"):
            os.replace(written / name, folder / name)


def _weight_files(folder: Path) -> Path:
    """The weights of a folder: the single file, else the index of the shards."""
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder / pickled[0]}: pickle-based weights are refused, since reading them can run code that they hold; "
            f"needed: {WEIGHTS} (`safetensors.torch.save_file`, or a repository that has it)"
        )
    raise CheckpointError(f"{folder}: there are no weights; needed: {WEIGHTS} or {INDEX}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, as views of its memory map."""
    library = optional_import("safetensors")
    try:
        # The library checks lengths, offsets (overlaps, holes), types and sizes; its arrays are copies, so the views
        # are made here from the header that it has accepted.
        with library.safe_open(path, framework="np"):
            pass
        mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except library.SafetensorError as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    try:
        # Duplicate names are what the library lets pass: it takes the last one.
        header = _parse_json(mapped[8:start].tobytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error}") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        data = mapped[start + first : start + last]
        tensors[name] = Tensor(name, path, entry["dtype"], tuple(entry["shape"]), data)
    return tensors


def _read_sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards that an index names; index and shards must agree on every tensor."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map; needed: an object of tensor name -> file name")
    paths = {name: member(index.parent, file_name, index) for name, file_name in weight_map.items()}
    shards = {}
    for path in dict.fromkeys(paths.values()):
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{index}: the shard {path.name!r} is no .safetensors file")
        if not path.is_file():
            raise CheckpointError(f"{index}: the shard {path.name!r} is not in the folder")
        shards[path] = _read_safetensors(path)
    for path, tensors in shards.items():
        stray = [name for name in tensors if paths.get(name) != path]
        if stray:
            raise CheckpointError(f"{path}: holds tensors that {index.name} does not list for it: {_listed(stray)}")
    absent = [name for name, path in paths.items() if name not in shards[path]]
    if absent:
        raise CheckpointError(f"{index}: lists tensors that their shards do not hold: {_listed(absent)}")
    return {name: shards[path][name] for name, path in paths.items()}


def _dtype(tensor: Tensor) -> np.dtype:
    if tensor.code == "BF16":
        return np.dtype(optional_import("ml_dtypes").bfloat16)
    if tensor.code not in _DTYPES:
        raise CheckpointError(f"{tensor.file}: tensor {tensor.name!r} has type {tensor.code}, which NumPy cannot show")
    return np.dtype(_DTYPES[tensor.code])


def _parse_json(text: bytes) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} stands twice")
        content[key] = value
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(map(repr, names[:_NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")
