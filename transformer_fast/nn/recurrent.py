"""`LSTM` and `GRU` as in torch.nn: layers over layers, one or two directions.

nn.seq2seq and users come here. A layer, both of its directions and all of its steps are one call of
`functional.lstm` or `functional.gru`; here are the parameters, their packed forms and the states of all layers. Another
cell becomes a subclass of `_Recurrent` with its function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.linear import PackedRows
from transformer_fast.nn.module import Module


class _Recurrent(Module):
    """What LSTM and GRU share; a subclass names its gates and its op."""

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{name}={value}; needed: a positive number")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"proj_size={proj_size}; needed: 0 (none) up to hidden_size - 1 = {hidden_size - 1}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout}; needed: a number from 0 to 1")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._directions = ("", "_reverse") if bidirectional else ("",)
        self._packs: dict[str, PackedRows] = {}
        rows, draw = self.gates * hidden_size, init.uniform(hidden_size)
        for layer in range(num_layers):
            width = input_size if layer == 0 else len(self._directions) * self.state_size
            for direction in self._directions:
                shapes = {
                    "weight_ih": (rows, width),
                    "weight_hh": (rows, self.state_size),
                    "bias_ih": (rows,) if bias else None,
                    "bias_hh": (rows,) if bias else None,
                }
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for name, shape in shapes.items():
                    name = f"{name}_l{layer}{direction}"
                    self.register_parameter(name, shape, draw, half=name.startswith("weight"))
                    if name.startswith("weight"):
                        self._packs[name] = PackedRows()

    @property
    def state_size(self) -> int:
        """The width of the state h: hidden_size, or proj_size where there is one."""
        return self.proj_size or self.hidden_size

    def _packed(self, name: str, layer: int) -> tuple:
        """The packed weight of each direction."""
        names = [f"{name}_l{layer}{direction}" for direction in self._directions]
        return tuple(self._packed_weight(n) for n in names)

    def _packed_weight(self, name: str) -> Any:
        # A step multiplies the batch alone by what is recurrent, and all steps together are multiplied by the rest.
        weight = self._parameters[name]
        few_rows = not name.startswith("weight_ih")
        return self._packs[name].get(weight, 0, len(weight), format=self.weight_format, few_rows=few_rows)

    def _bias(self, name: str, layer: int) -> np.ndarray | None:
        biases = [self._parameters[f"{name}_l{layer}{direction}"] for direction in self._directions]
        return None if biases[0] is None else np.concatenate(biases)

    def _run(self, op, input, states: Sequence[np.ndarray | None], lengths) -> tuple[np.ndarray, list[np.ndarray]]:
        """All layers: (output, the last states). states: the first ones, (layers * directions, B, width) or None."""
        x = np.asarray(input)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            axes = "(B, L, input_size)" if self.batch_first else "(L, B, input_size)"
            raise ValueError(
                f"input has shape {x.shape}; needed: {axes}, or (L, input_size) without a batch, "
                f"with input_size={self.input_size}"
            )
        batched = x.ndim == 3
        batch_first = self.batch_first and batched
        if not batched:
            if lengths is not None:
                raise ValueError("lengths is given for an input without a batch; needed: None")
            x = x[:, None]
            states = [None if state is None else np.asarray(state)[:, None] for state in states]
        D = len(self._directions)
        last: list[list[np.ndarray]] = [[] for _ in states]
        for layer in range(self.num_layers):
            own = [None if state is None else state[layer * D : (layer + 1) * D] for state in states]
            weights = [self._packed(name, layer) for name in ("weight_ih", "weight_hh")]
            biases = [self._bias(name, layer) for name in ("bias_ih", "bias_hh")]
            projection = [self._packed("weight_hr", layer)] if self.proj_size else []
            options = dict(zip(("h_0", "c_0"), own, strict=False))
            direction = "both" if self.bidirectional else "forward"
            options |= {"lengths": lengths, "direction": direction, "batch_first": batch_first}
            x, *ends = op(x, *weights, *biases, *projection, **options)
            for collected, end in zip(last, ends, strict=True):
                collected.append(end)
        ends = [collected[0] if len(collected) == 1 else np.concatenate(collected) for collected in last]
        return (x, ends) if batched else (x[:, 0], [end[:, 0] for end in ends])

    def _check_state(self, name: str, state, input, width: int) -> np.ndarray:
        state = np.asarray(state)
        shape = np.shape(input)
        batch = (shape[0 if self.batch_first else 1],) if len(shape) == 3 else ()
        needed = (self.num_layers * len(self._directions), *batch, width)
        if state.shape != needed:
            raise ValueError(f"{name} has shape {state.shape}; needed: {needed}")
        return state

    def _loaded(self) -> None:
        for name in self._packs:
            self._packed_weight(name)

    def extra_repr(self) -> str:
        options = f"num_layers={self.num_layers}, batch_first={self.batch_first}, bidirectional={self.bidirectional}"
        return f"{self.input_size}, {self.hidden_size}, {options}"


class LSTM(_Recurrent):
    """Long short-term memory as torch.nn.LSTM, with its parameter names (Hochreiter, Schmidhuber, 1997).

    proj_size > 0 projects the state to that width after each step (Sak et al., 2014). dropout is accepted and does
    nothing at inference. Fresh parameters are U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)).

    Example:
        >>> import numpy as np
        >>> output, (h, c) = LSTM(4, 8, num_layers=2, bidirectional=True)(np.zeros((5, 3, 4), np.float32))
        >>> output.shape, h.shape, c.shape
        ((5, 3, 16), (4, 3, 8), (4, 3, 8))
    """

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)

    def forward(
        self,
        input: np.ndarray,
        hx: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        lengths: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """(output, (h_n, c_n)).

        input (L, B, input_size), with batch_first (B, L, input_size), without a batch (L, input_size). hx = (h_0, c_0),
        zeros by default: h_0 (num_layers * directions, B, P), c_0 the same with hidden_size, where P is proj_size or
        hidden_size; without a batch without the B. output has the input's axes and directions * P in the last; h_n and
        c_n are as h_0 and c_0.

        lengths (B,), in any order, is what torch packs sequences for: row b ends after lengths[b] steps, its last
        states are those of its own end, the reverse direction starts there, and output is 0 behind it.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
        """
        states: list[np.ndarray | None] = [None, None]
        if hx is not None:
            if not isinstance(hx, (tuple, list)) or len(hx) != 2:
                raise TypeError(f"hx is a {type(hx).__name__}; needed: a tuple (h_0, c_0)")
            widths = (self.state_size, self.hidden_size)
            named = zip(("h_0", "c_0"), hx, widths, strict=True)
            states = [self._check_state(name, state, input, width) for name, state, width in named]
        output, (h, c) = self._run(F.lstm, input, states, lengths)
        return output, (h, c)


class GRU(_Recurrent):
    """Gated recurrent units as torch.nn.GRU, with its parameter names (Cho et al., 2014).

    dropout is accepted and does nothing at inference. Fresh parameters are as in `LSTM`.

    Example:
        >>> import numpy as np
        >>> output, h = GRU(4, 8)(np.zeros((5, 3, 4), np.float32), lengths=[5, 2, 3])
        >>> output.shape, h.shape
        ((5, 3, 8), (1, 3, 8))
    """

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)

    def forward(
        self, input: np.ndarray, hx: np.ndarray | None = None, *, lengths: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(output, h_n); hx is h_0, the rest as in `LSTM`.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
        """
        state = None if hx is None else self._check_state("hx", hx, input, self.hidden_size)
        output, (h,) = self._run(F.gru, input, [state], lengths)
        return output, h
