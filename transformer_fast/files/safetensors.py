"""Files in the safetensors format: tensors as views of the mapped file, one file or shards with an index.

`folder` calls it. The package safetensors checks lengths, offsets (overlaps, holes), types and sizes; its arrays are
copies, so that views are made here from the header that it has accepted.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, then the tensors' bytes).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transformer_fast.files.errors import CheckpointError, listed, optional_import
from transformer_fast.files.json_files import member, parse_json, read_json_object
from transformer_fast.files.source import Tensor


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, as views of its memory map."""
    library = optional_import("safetensors")
    try:
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
        header = parse_json(mapped[8:start].tobytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error}") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        data = mapped[start + first : start + last]
        tensors[name] = Tensor(name, path, entry["dtype"], tuple(entry["shape"]), data)
    return tensors


def read_sharded(index: Path) -> dict[str, Tensor]:
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
        shards[path] = read_safetensors(path)
    for path, tensors in shards.items():
        stray = [name for name in tensors if paths.get(name) != path]
        if stray:
            raise CheckpointError(f"{path}: holds tensors that {index.name} does not list for it: {listed(stray)}")
    absent = [name for name, path in paths.items() if name not in shards[path]]
    if absent:
        raise CheckpointError(f"{index}: lists tensors that their shards do not hold: {listed(absent)}")
    return {name: shards[path][name] for name, path in paths.items()}
