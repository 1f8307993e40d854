"""Embeddings of passages that stay on disk between calls of `transformer-fast search`.

commands/search.py calls `embeddings`. An index is a folder for one model, its settings and one source of passages:

    vectors-<SHA-256>.npy   (N, D) float32, which is mapped, not read
    manifest.json           settings, the file with the vectors, its checksum, and the SHA-256 of each row's text

A row belongs to a text, not to a file or a time: a passage is embedded again exactly when its text, the model or a
setting has changed, whatever files are called and whenever they were written. Texts themselves are not kept.

A writer holds the lock, writes the vectors beside the old ones and replaces the manifest at last, so that a reader
finds the old index or the new one. A mapped file stays readable after it was replaced. What does not fit together is
rebuilt and said so. A further setting that changes vectors goes into the settings that search.py passes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer_fast.commands import common

if TYPE_CHECKING:
    import numpy as np

_MANIFEST, _LOCK, _FORMAT = "manifest.json", "lock", 1


class _Broken(ValueError):
    """The index is there, and does not fit together."""


def default_folder() -> Path:
    """Where indexes are if nobody says: transformer-fast/search in $XDG_CACHE_HOME, or in ~/.cache.

    Source: XDG Base Directory Specification 0.8, by which a relative path there counts as not set.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return root / "transformer-fast" / "search"


def embeddings(
    root: Path,
    settings: dict[str, Any],
    texts: Sequence[str],
    embed: Callable[[list[str]], np.ndarray],
    required: bool = True,
) -> np.ndarray:
    """The vectors (N, D) of texts; `embed` is called with those that the index does not have.

    root: the folder of all indexes; settings: what the vectors depend on, as JSON has it, and the name of the source.
    required: an index that cannot be read or written is an error, else a message.

    Raises:
        OSError: with `required`.
    """
    folder = root / _digest(json.dumps(settings, sort_keys=True))[:32]
    keys = [_digest(text) for text in texts]
    stored, vectors = {}, None
    try:
        stored, vectors = _load(folder, settings)
    except _Broken as error:
        common.say(f"the index {folder} is damaged ({error}) and is built again")
    except OSError as error:
        _tell(error, required)
    missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in stored}.items())
    if missing:
        new = embed([text for _, text in missing])
        stored, vectors = _joined(stored, vectors, [key for key, _ in missing], new, keys)
        try:
            _save(folder, settings, stored, vectors)
        except OSError as error:
            _tell(error, required)
    places = [stored[key] for key in keys]
    return vectors if places == list(range(len(vectors))) else vectors[places]


def _tell(error: OSError, required: bool) -> None:
    if required:
        raise error
    common.say(f"the index is not used: {error.filename}: {error.strerror}")


def _joined(
    stored: dict[str, int], vectors: np.ndarray | None, new_keys: list[str], new: np.ndarray, wanted: list[str]
) -> tuple[dict[str, int], np.ndarray]:
    """The rows of the texts that are wanted now, in their order, each once; others are dropped."""
    import numpy as np

    place = {**stored, **{key: len(stored) + i for i, key in enumerate(new_keys)}}
    every = new if vectors is None else np.concatenate([vectors, new])
    order = list(dict.fromkeys(wanted))
    return {key: i for i, key in enumerate(order)}, np.ascontiguousarray(every[[place[key] for key in order]])


def _load(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, int], np.ndarray | None]:
    """The rows by the digests of their texts, and the vectors; nothing and None where there is no index.

    Raises _Broken.
    """
    for last_try in (False, True):
        manifest = _manifest(folder)
        if manifest is None:
            return {}, None
        try:
            return _checked(folder, manifest, settings)
        except FileNotFoundError as error:  # another process has replaced both files in between: once more
            if last_try:
                raise _Broken(f"{error.filename} is missing") from None
    raise AssertionError("unreachable")


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / _MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise _Broken(f"{_MANIFEST} is no JSON") from None
    if not isinstance(found, dict):
        raise _Broken(f"{_MANIFEST} holds no object")
    return found


def _checked(folder: Path, manifest: dict[str, Any], settings: dict[str, Any]) -> tuple[dict[str, int], np.ndarray]:
    import numpy as np

    name, keys = manifest.get("vectors"), manifest.get("texts")
    if manifest.get("format") != _FORMAT or manifest.get("settings") != settings:
        raise _Broken(f"{_MANIFEST} has other settings")
    if not isinstance(name, str) or os.path.basename(name) != name or not isinstance(keys, list):
        raise _Broken(f"{_MANIFEST} is incomplete")
    if not all(isinstance(key, str) for key in keys):
        raise _Broken(f"{_MANIFEST} holds something else than digests of texts")
    try:
        vectors = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise _Broken(f"{name} is no array") from None
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(keys) or len(set(keys)) != len(keys):
        raise _Broken(f"{name} does not fit {_MANIFEST}")
    if zlib.crc32(np.ascontiguousarray(vectors)) != manifest.get("crc32"):
        raise _Broken(f"{name} has another checksum")
    return {key: i for i, key in enumerate(keys)}, vectors


def _save(folder: Path, settings: dict[str, Any], stored: dict[str, int], vectors: np.ndarray) -> None:
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"vectors-{hashlib.sha256(vectors.data).hexdigest()[:16]}.npy"
    manifest = {
        "format": _FORMAT,
        "settings": settings,
        "vectors": name,
        "crc32": zlib.crc32(vectors),
        "texts": list(stored),
    }
    with _locked(folder):
        with common.replacing(folder / name, "wb") as file:
            np.save(file, vectors)
        with common.replacing(folder / _MANIFEST, "w") as file:
            json.dump(manifest, file)
        for old in folder.glob("vectors-*.npy"):
            if old.name != name:
                old.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the lock ends with the process that holds it."""
    with open(folder / _LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
