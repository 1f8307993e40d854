"""JSON files, read strictly and written for people.

Readers disagree on a key that occurs twice, on NaN and on Infinity, so that all three are errors here. `folder` and
`safetensors` read with it, `checkpoint` and `generation` write.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from transformer_fast.files.errors import CheckpointError


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: the file is missing, unreadable or not JSON.
    """
    return checked_json(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        CheckpointError: the file is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def checked_json(path: Path, data: bytes) -> Any:
    """The content of a JSON text that the file `path` holds.

    Raises:
        CheckpointError: it is not JSON.
    """
    try:
        return parse_json(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """As `read_json`, for a file that must hold a JSON object."""
    return checked_object(path, read_json(path))


def checked_object(path: Path, content: Any) -> dict[str, Any]:
    """The content of the file `path`, which must be a JSON object."""
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


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, for people to read."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def parse_json(text: bytes) -> Any:
    """The content of a JSON text.

    Raises:
        ValueError: it is not JSON. RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} occurs twice")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
