"""Recurrent layers: one layer of an LSTM or a GRU over all steps, in one or two directions.

Called by users and nn.recurrent; the gates are csrc/kernels/recurrent.h, the steps csrc/ops/recurrent.c. Another
cell: its gates in the kernel, its function here.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays
from transformer_fast.functional.linear import PackedWeight, pack_weight

# tfast_cell of csrc/tfast.h, and its gates.
_LSTM, _GRU = (0, 4), (1, 3)
_DIRECTIONS = {"forward": 1, "backward": 1, "both": 2}


def lstm(
    x,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    weight_hr=None,
    h_0=None,
    c_0=None,
    *,
    lengths=None,
    direction="forward",
    batch_first=False,
    out=None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One LSTM layer: (y, h_n, c_n), the state after every step, and the last state of each row.

    i, f, o = sigmoid(a), g = tanh(a) with a = x W_ih^T + b_ih + h W_hh^T + b_hh; c = f c + i g; h = o tanh(c), or with
    weight_hr its projection h = (o tanh(c)) W_hr^T.

    x (L, B, I), with batch_first (B, L, I). Hc cells, P = Hc wide states, or weight_hr (P, Hc). weight_ih (4 Hc, I),
    weight_hh (4 Hc, P), biases (4 Hc,); gates in the order i, f, g, o. h_0 (1, B, P) and c_0 (1, B, Hc) are zeros by
    default. -> y (L, B, P), or (B, L, P), h_n (1, B, P), c_n (1, B, Hc); all float32.

    direction: "forward"; "backward", from the last step to the first; or "both". For "both" the rows of the second
    direction follow those of the first in every weight and bias, h_0, c_0 and the last states have two entries, and y
    is 2 P wide. lengths (B,), 0 to L, in any order: row b ends after lengths[b] steps, y is 0 from there on, and its
    backward direction starts there (as torch's packed sequences). Instead of an array, a weight may be a tuple with
    what `pack_weight` made of it, one for each direction. out takes y.
    Raises TypeError, ValueError, and RuntimeError for weights packed under another instruction set. Source: Hochreiter,
    Schmidhuber 1997; Sak, Senior, Beaufays 2014, arXiv:1402.1128 (projection); torch.nn.LSTM.

    Example:
        >>> import numpy as np
        >>> x = np.ones((3, 2, 4), np.float32)
        >>> y, h, c = lstm(x, np.ones((8, 4), np.float32), np.zeros((8, 2), np.float32))
        >>> y.shape, h.shape, c.shape
        ((3, 2, 2), (1, 2, 2), (1, 2, 2))
    """
    return _layer(
        _LSTM, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, h_0, c_0, lengths, direction, batch_first, out
    )


def gru(
    x,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    h_0=None,
    *,
    lengths=None,
    direction="forward",
    batch_first=False,
    out=None,
) -> tuple[np.ndarray, np.ndarray]:
    """One GRU layer: (y, h_n), the state after every step, and the last state of each row.

    With a = x W_ih^T + b_ih and s = h W_hh^T + b_hh, three gates each: r, z = sigmoid(a + s), n = tanh(a + r s),
    h = (1 - z) n + z h.

    weight_ih (3 Hc, I), weight_hh (3 Hc, Hc), biases (3 Hc,); gates in the order r, z, n. Everything else as in `lstm`.
    Source: Cho et al. 2014, arXiv:1406.1078, with the reset gate behind the product, as in torch.nn.GRU.

    Example:
        >>> import numpy as np
        >>> x = np.ones((3, 2, 4), np.float32)
        >>> y, h = gru(x, np.ones((6, 4), np.float32), np.zeros((6, 2), np.float32))
        >>> bool((y[-1] == h[0]).all())
        True
    """
    return _layer(
        _GRU, x, weight_ih, weight_hh, bias_ih, bias_hh, None, h_0, None, lengths, direction, batch_first, out
    )


def _layer(cell, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, h_0, c_0, lengths, direction, batch_first, out):
    code, gates = cell
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction is {direction!r}; needed: one of {list(_DIRECTIONS)}")
    D = _DIRECTIONS[direction]
    x = arrays.float32(x, "x")
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}; needed: {'(B, L, I)' if batch_first else '(L, B, I)'}")
    L, B = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    weights = _packed(weight_hh, "weight_hh", D, for_decode=True)
    rows, P = weights[0].shape
    Hc = rows // gates
    if rows != gates * Hc or not Hc:
        raise ValueError(f"weight_hh has {rows} rows for each direction; needed: a multiple of {gates} (the gates)")
    _check_weights(weights, "weight_hh", (gates * Hc, P))
    projections = () if weight_hr is None else _packed(weight_hr, "weight_hr", D, for_decode=True)
    _check_weights(projections, "weight_hr", (P, Hc))
    if not projections and P != Hc:
        raise ValueError(f"weight_hh has shape {(rows, P)}; needed: ({rows}, {Hc}) without weight_hr")
    inputs = _packed(weight_ih, "weight_ih", D)
    _check_weights(inputs, "weight_ih", (gates * Hc, x.shape[2]))
    if bias_ih is not None:
        bias_ih = arrays.vector(bias_ih, "bias_ih", D * gates * Hc)
    if bias_hh is not None:
        bias_hh = arrays.vector(bias_hh, "bias_hh", D * gates * Hc)
    h = _state(h_0, "h_0", (D, B, P))
    c = _state(c_0, "c_0", (D, B, Hc)) if code == _LSTM[0] else None
    lengths, order = _lengths(lengths, B, L)
    shape = (*x.shape[:2], D * P)
    if out is not None:
        operands = {"x": x, "bias_ih": bias_ih, "bias_hh": bias_hh, "h_0": h_0, "c_0": c_0}
        arrays.check_out(out, shape, arrays.FLOAT32, operands)
    result = arrays.result_array(out, shape, arrays.FLOAT32)
    steps, y = (x.swapaxes(0, 1), result.swapaxes(0, 1)) if batch_first else (x, result)
    _core.recurrent(
        code, direction == "backward", steps, inputs, weights, bias_ih, bias_hh, projections, order, lengths, h, c, y, 0
    )
    y = arrays.finish(out, result)
    return (y, h) if c is None else (y, h, c)


def _packed(weight, name: str, directions: int, *, for_decode: bool = False) -> tuple:
    """One packed weight a direction: given so, or the rows of an array in equal parts."""
    if isinstance(weight, tuple) and all(type(part) is PackedWeight for part in weight):
        if len(weight) != directions:
            raise ValueError(f"{name} is a tuple of {len(weight)} packed weights; needed: {directions}")
        return weight
    weight = arrays.float32(weight, name)
    if weight.ndim != 2 or len(weight) % directions:
        raise ValueError(f"{name} has shape {weight.shape}; needed: two axes, and rows for {directions} directions")
    return tuple(pack_weight(part, for_decode=for_decode) for part in np.split(weight, directions))


def _check_weights(weights: tuple, name: str, shape: tuple[int, int]) -> None:
    for weight in weights:
        if weight.shape != shape:
            raise ValueError(f"{name} has shape {weight.shape} for each direction; needed: {shape}")


def _state(state, name: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A copy that the engine may write the last state to."""
    if state is None:
        return np.zeros(shape, arrays.FLOAT32)
    state = arrays.float32(state, name)
    if state.shape != shape:
        raise ValueError(f"{name} has shape {state.shape}; needed: {shape}")
    return np.array(state, order="C")


def _lengths(lengths, B: int, L: int) -> tuple[np.ndarray, np.ndarray]:
    """(lengths, the rows by falling length)."""
    if lengths is None:
        return np.full(B, L, np.int64), np.arange(B, dtype=np.int64)
    lengths = arrays.integers(lengths, "lengths", B)
    if ((lengths < 0) | (lengths > L)).any():
        raise ValueError(f"lengths reach from {lengths.min()} to {lengths.max()}; needed: 0 to {L}")
    return lengths, np.argsort(-lengths, kind="stable").astype(np.int64, copy=False)
