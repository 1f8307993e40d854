"""The modules of torch.nn that families.py measures: the same weights and inputs in every process that asks for them.

Called by backends/torch.py, and by backends/ours.py, which translates what it gets with `from_torch`. A new module is a
function in `_MODULES` and a line in families.py. Imports torch, so only what needs it imports this file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cases import generator

from benchmarks.wire import ModuleCase

_HEADS = {768: 12, 512: 8}
_LAYERS = 6
_KEY_WIDTH = 512


def _attention(case: ModuleCase, **options: Any) -> torch.nn.Module:
    return torch.nn.MultiheadAttention(case.width, _HEADS[case.width], batch_first=True, **options)


def _encoder(case: ModuleCase) -> torch.nn.Module:
    layer = torch.nn.TransformerEncoderLayer(case.width, _HEADS[case.width], 4 * case.width, batch_first=True)
    return torch.nn.TransformerEncoder(layer, _LAYERS)


_MODULES: dict[str, Callable[[ModuleCase], torch.nn.Module]] = {
    "attention": _attention,
    "attention, weights": _attention,
    "attention, padding": _attention,
    "attention, bias_kv": lambda case: _attention(case, add_bias_kv=True),
    "attention, kdim": lambda case: _attention(case, kdim=_KEY_WIDTH, vdim=_KEY_WIDTH),
    "encoder": _encoder,
    "lstm": lambda case: torch.nn.LSTM(case.width, case.width, batch_first=True),
    "gru": lambda case: torch.nn.GRU(case.width, case.width, batch_first=True),
}


def build(case: ModuleCase) -> torch.nn.Module:
    """The module with random weights, in evaluation mode."""
    torch.manual_seed(zlib.crc32(case.name.encode()))
    module = _MODULES[case.module](case).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:  # biases and norms, which begin with 0 and 1
                parameter += 0.02 * torch.randn_like(parameter)
    return module


def inputs(case: ModuleCase) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Positional arguments and options of the call; arrays."""
    rng = generator(case.name)
    x = rng.standard_normal((case.B, case.L, case.width)).astype(np.float32)
    if not case.module.startswith("attention"):
        return [x], {}
    memory = x
    if case.module == "attention, kdim":
        memory = rng.standard_normal((case.B, case.L, _KEY_WIDTH)).astype(np.float32)
    options: dict[str, Any] = {"need_weights": case.module == "attention, weights"}
    if case.module == "attention, padding":
        lengths = rng.integers(case.L // 2, case.L + 1, case.B)
        options["key_padding_mask"] = np.arange(case.L) >= lengths[:, None]
    return [x, memory, memory], options


def read(result: Any) -> np.ndarray:
    """All outputs of a row in a line, (B, n): what is compared. Recurrent layers' states have the batch second."""
    outputs = list(result) if isinstance(result, tuple) else [result]
    if len(outputs) == 2 and isinstance(outputs[1], tuple):
        outputs = [outputs[0], *outputs[1]]
    arrays = [np.asarray(output) for output in outputs if output is not None]
    B = len(arrays[0])
    rows = [array if len(array) == B else array.swapaxes(0, 1) for array in arrays]
    return np.concatenate([array.reshape(B, -1) for array in rows], axis=1)
