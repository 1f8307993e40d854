"""The past of a decoder in a file: `DecoderState.save` writes it, `load_past` of a model reads it.

Format: NumPy's .npz without pickled objects. "header" is JSON as bytes: the version, a fingerprint of the model's
config, the type and window of each cache, and whether the state is one of a generation; "lengths.g" (B,) and
"g/keys.i", "g/values.i" are what cache g holds (`StackCache.held`), bfloat16 as its 16 bits. The weights are not part
of the fingerprint: two models of one config are not told apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer_fast.files.errors import CheckpointError

if TYPE_CHECKING:
    from transformer_fast.models.common.decoding import DecoderState

_VERSION = 1


def fingerprint(config: Any) -> str:
    """SHA-256 of a config's class and fields."""
    content = [type(config).__name__, dataclasses.asdict(config)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def save_state(state: DecoderState, path: str | Path) -> None:
    header = {
        "version": _VERSION,
        "fingerprint": fingerprint(state.config),
        "dtype": state.dtype.name,
        "trimmed": state.trimmed,
        "generating": state.generating,
        "padded": state.padded,
    }
    arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    arrays |= {"positions": state.positions, "tokens": state.tokens}
    for number, cache in enumerate(state.caches):
        arrays[f"lengths.{number}"] = cache.lengths
        arrays |= {f"{number}/{name}": _as_stored(array) for name, array in cache.held().items()}
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def read_header(path: str | Path, config: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the other arrays of a saved state.

    Raises:
        CheckpointError: the file cannot be read, is of another format, or of a model with another config.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read as a saved past: {error}") from None
    if not isinstance(header, dict) or header.get("version") != _VERSION:
        raise CheckpointError(f"{path}: is no past of version {_VERSION}")
    if header.get("fingerprint") != fingerprint(config):
        raise CheckpointError(
            f"{path}: is of a model with another config; needed: one of a {type(config).__name__} "
            f"with the fields that this model has"
        )
    return header, arrays


def fill_state(state: DecoderState, header: dict[str, Any], arrays: dict[str, np.ndarray], path: str | Path) -> None:
    """Makes an empty state of the header's kind hold what was saved.

    Raises:
        CheckpointError: arrays are missing, or do not fit the model or each other.
    """
    try:
        state.positions = _counts(arrays, "positions", len(state.positions))
        state.tokens = arrays["tokens"]
        if state.tokens.dtype != bool or state.tokens.ndim != 2 or len(state.tokens) != len(state.positions):
            raise ValueError(f"tokens is {state.tokens.dtype} of shape {state.tokens.shape}; needed: bool (B, n)")
        state.generating, state.padded = bool(header["generating"]), bool(header["padded"])
        totals = state.positions if state.generating else state.tokens.sum(axis=1)
        for number, cache in enumerate(state.caches):
            lengths = _counts(arrays, f"lengths.{number}", len(state.positions))
            least = totals if cache.window is None else np.minimum(totals, cache.window - 1)
            if (lengths > totals).any() or (lengths < least).any():
                raise ValueError(f"lengths.{number} is {lengths}; needed: {least} to {totals}")
            prefix = f"{number}/"
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            cache.hold(lengths, {name: _as_held(array, cache.dtype) for name, array in own.items()})
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is no past of this model: {error}") from None


def _counts(arrays: dict[str, np.ndarray], name: str, rows: int) -> np.ndarray:
    values = arrays[name]
    if values.shape != (rows,) or values.dtype != np.int64 or (values < 0).any():
        raise ValueError(f"{name} is {values.dtype} of shape {values.shape}; needed: int64 >= 0 of shape {(rows,)}")
    return values


def _as_stored(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _as_held(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return array.view(dtype) if dtype.name == "bfloat16" and array.dtype == np.uint16 else array
