"""Attention weights as JSON for a browser: checked, rounded to 16 or 8 bits, special tokens told from words.

`explore` calls it, and so does the server for its page; `weights.js` reads what it writes. The page has no other data.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from transformer_fast.visualize.inputs import checked_weights, readable

# What 16 bits a weight are used up to: 4 MB, 5.3 MB in base64. Beyond that a weight takes 8 bits.
_MOST_IN_16_BITS = 2_000_000
# A file of 86 MB, of which Chromium has drawn all maps 10 s after it was opened (two processors that others used, too).
_MOST_WEIGHTS = 64_000_000
# Characters of a token that are sent; the page cuts what does not fit.
_TOKEN_LENGTH = 80
_SPECIAL = re.compile(r"\[[A-Za-z0-9_]+\]|<[^<>\s]+>")


def encoded(
    maps: Mapping[str, tuple[Any, ...]],
    *,
    special_tokens: Collection[str] | None = None,
    bits: int | None = None,
    view: str = "lines",
    layer: int | None = None,
    head: int | None = None,
) -> dict[str, Any]:
    """What explorer.js shows, of maps as `explore` takes them; numbers, lists and strings only."""
    if not maps:
        raise ValueError("attentions is empty; needed: at least one kind of attention")
    if view not in ("lines", "heatmap"):
        raise ValueError(f"view is {view!r}; needed: 'lines' or 'heatmap'")
    if bits not in (None, 8, 16):
        raise ValueError(f"bits is {bits}; needed: 8, 16 or None")
    stacks = {name: _stack(name, *entry) for name, entry in maps.items()}
    count = sum(stack.size for stack, *_ in stacks.values())
    if count > _MOST_WEIGHTS:
        raise ValueError(f"there are {count:,} weights; needed: at most {_MOST_WEIGHTS:,}: fewer layers, or less text")
    bits = bits or (16 if count <= _MOST_IN_16_BITS else 8)
    entries = [_entry(name, *stack, special_tokens, bits) for name, stack in stacks.items()]
    first = entries[0]
    for name, index, most in (("layer", layer, first["layers"]), ("head", head, first["heads"])):
        if index is not None and not 0 <= index < most:
            raise ValueError(f"{name} is {index}; needed: 0 to {most - 1}, or None")
    return {"maps": entries, "view": view, "layer": layer, "head": head}


def _stack(
    name: str, attentions: Any, tokens: Sequence[str] | None = None, key_tokens: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str], list[str], bool]:
    """Weights (layers, H, Lq, Lk), the tokens of both sides, and whether these are the same tokens."""
    needed = "(Lq, Lk), (H, Lq, Lk), or a sequence over layers of (H, Lq, Lk); of a batch, choose a row first"
    layers = _layers(attentions)
    if not layers:
        raise ValueError(f"{name} is empty; needed: {needed}")
    checked = [
        _heads(checked_weights(f"{name}[{i}]", layer, (2, 3, 4), needed), name) for i, layer in enumerate(layers)
    ]
    for i, layer in enumerate(checked):
        if layer.shape != checked[0].shape:
            raise ValueError(f"{name}[{i}] has shape {layer.shape}; needed: {checked[0].shape}, as the first layer")
        if (layer < 0).any():
            raise ValueError(f"{name}[{i}] goes down to {layer.min()}; needed: no negative weights")
    stack = np.stack(checked)
    Lq, Lk = stack.shape[2:]
    queries = _tokens("tokens", tokens, Lq)
    same = key_tokens is None and Lq == Lk
    return stack, queries, queries if same else _tokens("key_tokens", key_tokens, Lk), same


def _layers(attentions: Any) -> list[Any]:
    """A list over layers, of one array or of a sequence of them."""
    if hasattr(attentions, "tocoo"):
        attentions = attentions.toarray()
    if not hasattr(attentions, "ndim"):
        attentions = list(attentions)
        if attentions and np.ndim(attentions[0]) >= 3:
            return attentions
        return [np.asarray(attentions)] if attentions else []
    return list(attentions) if attentions.ndim >= 4 else [attentions]


def _heads(layer: np.ndarray, name: str) -> np.ndarray:
    """(H, Lq, Lk) of one layer, which may have a batch axis of 1 as a model's attentions do."""
    if layer.ndim == 4:
        if len(layer) != 1:
            raise ValueError(
                f"{name} has a batch of {len(layer)} rows; needed: one, [layer[row] for layer in attentions]"
            )
        return layer[0]
    return layer.reshape(-1, *layer.shape[-2:])


def _tokens(name: str, tokens: Sequence[str] | None, length: int) -> list[str]:
    if tokens is None:
        return [str(i) for i in range(length)]
    if isinstance(tokens, str):
        raise TypeError(f"{name} is a string; needed: a list of {length} of them")
    if len(tokens) != length:
        raise ValueError(f"{name} has {len(tokens)} entries; needed: {length}, one for each position of the weights")
    return [readable(token)[:_TOKEN_LENGTH] for token in tokens]


def _entry(
    name: str,
    stack: np.ndarray,
    queries: list[str],
    keys: list[str],
    same: bool,
    special_tokens: Collection[str] | None,
    bits: int,
) -> dict[str, Any]:
    # A root: the smallest weights keep two digits in 8 bits, and the largest differ by 0.4 %.
    top = 2**bits - 1
    maxima = stack.max(axis=-1)
    shares = stack / np.maximum(maxima, np.finfo(np.float32).tiny)[..., None]
    codes = np.rint(np.sqrt(shares) * top).astype("<u2" if bits == 16 else "u1")
    special = [[i for i, token in enumerate(side) if _is_special(token, special_tokens)] for side in (queries, keys)]
    return {
        "name": name,
        "layers": stack.shape[0],
        "heads": stack.shape[1],
        "queries": queries,
        "keys": keys,
        "self_attention": same,
        "special_queries": special[0],
        "special_keys": special[1],
        "bits": bits,
        "codes": base64.b64encode(codes.tobytes()).decode("ascii"),
        "maxima": base64.b64encode(maxima.astype("<f4").tobytes()).decode("ascii"),
    }


def _is_special(token: str, special_tokens: Collection[str] | None) -> bool:
    return bool(_SPECIAL.fullmatch(token)) if special_tokens is None else token in special_tokens
