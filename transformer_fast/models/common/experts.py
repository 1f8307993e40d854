"""The feed-forward of a mixture of experts: a router sends each token to a few of many small feed-forwards.

`decoder_blocks.GatedBlock` makes one where `BlockOptions.experts` is set: in qwen3_moe.py, mixtral.py, gpt_oss.py.
Tokens are packed by expert: each expert multiplies all of its tokens at once. Another kind of expert is a class beside
`Expert`, another way to choose an option of `ExpertOptions` that `Router` follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.base import Part, Source
from transformer_fast.nn import Linear, Module, ModuleList, init
from transformer_fast.nn.packed_weights import PackedParameters


@dataclass(frozen=True)
class ExpertOptions:
    """In what the families' experts differ.

    count, chosen: how many there are, and how many a token is sent to. inner: their width. normalised: the weights of
    the chosen ones sum to 1; else each is the expert's probability among all. activation: of the gate, a name of
    `functional.linear`. bias: of the router and of every expert. swiglu: instead of an activation, (alpha, limit) of
    gpt-oss' clamped SwiGLU.
    """

    count: int
    chosen: int
    inner: int
    normalised: bool
    activation: str = "silu"
    bias: bool = False
    swiglu: tuple[float, float] | None = None


def check_chosen(config: Any) -> None:
    """config.num_experts_per_tok is no more than num_local_experts, or a ValueError says so."""
    if config.num_experts_per_tok > config.num_local_experts:
        raise ValueError(
            f"num_experts_per_tok is {config.num_experts_per_tok}; "
            f"needed: at most num_local_experts={config.num_local_experts}"
        )


class Router(Module):
    """Scores x W^T + b of all experts, and which of them are taken.

    The product stays float32 unless `compute_type` names it: another score is another expert, and the weight is small.
    """

    keeps_float32 = True  # `compute_types` reads it

    def __init__(self, h: int, options: ExpertOptions) -> None:
        super().__init__()
        self.options = options
        self.register_parameter("weight", (options.count, h), init.uniform(h), packed=True)
        self.register_parameter("bias", (options.count,) if options.bias else None, init.uniform(h))
        self._packed_weight = PackedParameters("weight", takes_input=True)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, h) -> the chosen experts (T, chosen), best first, and their weights (T, chosen)."""
        scores = F.linear(x, self._packed_weight.get(self), self.bias)
        chosen = np.argsort(-scores, axis=1, kind="stable")[:, : self.options.chosen]
        if self.options.normalised:
            return chosen, F.softmax(np.take_along_axis(scores, chosen, axis=1))
        return chosen, np.take_along_axis(F.softmax(scores), chosen, axis=1)

    def _loaded(self) -> None:
        self._packed_weight.get(self)


class Expert(Module):
    """down(activation(gate(x)) * up(x))."""

    def __init__(self, h: int, options: ExpertOptions) -> None:
        super().__init__()
        self.options = options
        self.gate_proj = Linear(h, options.inner, options.bias)
        self.up_proj = Linear(h, options.inner, options.bias)
        self.down_proj = Linear(options.inner, h, options.bias)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(n, h) -> (n, h)."""
        gate, activation = self.gate_proj, self.options.activation
        gated = F.linear(x, gate.packed(), gate.bias, activation=activation, multiply=self.up_proj(x))
        return self.down_proj(gated)


class ClampedExpert(Expert):
    """down(g * sigmoid(alpha * g) * (u + 1)), with g = gate(x) up to the limit and u = up(x) within it (gpt-oss)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(n, h) -> (n, h)."""
        alpha, limit = (np.float32(value) for value in self.options.swiglu)
        gate, up = self.gate_proj(x), self.up_proj(x)
        np.minimum(gate, limit, out=gate)
        np.clip(up, -limit, limit, out=up)
        up += np.float32(1)
        gate *= alpha  # z * sigmoid(z) with z = alpha * g is alpha times what is needed
        F.silu(gate, out=gate)
        gate /= alpha
        gate *= up
        return self.down_proj(gate)


class Experts(Module):
    """The router and its experts."""

    def __init__(self, h: int, options: ExpertOptions) -> None:
        super().__init__()
        self.options = options
        expert = Expert if options.swiglu is None else ClampedExpert
        self.router = Router(h, options)
        self.experts = ModuleList([expert(h, options) for _ in range(options.count)])

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(T, h) -> the sum of what a token's experts give, each times its weight, a new array (T, h).

        An expert's result for a token does not depend on the others', and the sum goes by the experts' numbers: so the
        result does not depend on what else is in the batch.
        """
        chosen, weights = self.router(x)
        by_expert = np.argsort(chosen, axis=None, kind="stable")
        tokens, weights = by_expert // self.options.chosen, weights.reshape(-1, 1)[by_expert]
        numbers, starts = np.unique(chosen.reshape(-1)[by_expert], return_index=True)
        mixed = np.zeros_like(x)
        ends = [*starts[1:], len(tokens)]
        for number, first, last in zip(numbers.tolist(), starts, ends[: len(starts)], strict=True):
            rows = tokens[first:last]
            result = self.experts[number](x[rows])
            result *= weights[first:last]
            mixed[rows] += result
        return mixed

    def follows(self, norm: Module, parts: int = 1) -> Module:
        """As `Module.follows`, for all products that read the input."""
        self.router.follows(norm)
        for expert in self.experts:
            expert.gate_proj.follows(norm)
            expert.up_proj.follows(norm)
        return self


def single_experts(
    ours: str,
    theirs: str,
    count: int,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    bias: bool = False,
) -> dict[str, Source]:
    """Our parameters -> one tensor each, of files that number the experts: `theirs`.0.gate_proj.weight and so on.

    ours: what `Experts` is called in the model. names: of gate, up and down. bias: each has one.

    Example:
        >>> single_experts("experts", "mlp.experts", 1)["experts.experts.0.up_proj.weight"].names
        ('mlp.experts.0.up_proj.weight',)
    """
    parts = dict(zip(("gate_proj", "up_proj", "down_proj"), names, strict=True))
    return {
        f"{ours}.experts.{e}.{part}.{kind}": Source(f"{theirs}.{e}.{name}.{kind}")
        for e in range(count)
        for part, name in parts.items()
        for kind in (("weight", "bias") if bias else ("weight",))
    }


def stacked_experts(
    ours: str, theirs: str, h: int, options: ExpertOptions, *, neighbours: bool = False
) -> dict[str, Source]:
    """Our parameters -> a matrix each of the stacks `theirs`.gate_up_proj (E, 2 inner, h), the gates' rows first, and
    `theirs`.down_proj (E, h, inner).

    neighbours: as gpt-oss has them: the matrices are transposed, rows of gate and up take turns, and there are biases.

    Example:
        >>> options = ExpertOptions(count=2, chosen=1, inner=8, normalised=True)
        >>> source = stacked_experts("experts", "mlp.experts", 4, options)["experts.experts.1.up_proj.weight"]
        >>> source.names, source.shapes((8, 4))
        (('mlp.experts.gate_up_proj',), [(2, 16, 4)])
    """
    inner, both = options.inner, 2 * options.inner
    rows = {"gate_proj": slice(0, inner), "up_proj": slice(inner, both)}
    if neighbours:
        rows = {"gate_proj": slice(0, both, 2), "up_proj": slice(1, both, 2)}
    sources = {}
    for e in range(options.count):
        parts = {
            part: {"name": f"{theirs}.gate_up_proj", "of": both, "rows": own, "matrix": e, "matrices": options.count}
            for part, own in rows.items()
        }
        parts["down_proj"] = {"name": f"{theirs}.down_proj", "of": h, "matrix": e, "matrices": options.count}
        for part, fields in parts.items():
            sources[f"{ours}.experts.{e}.{part}.weight"] = Source(Part(**fields), transpose=neighbours)
            if neighbours:
                bias = Part(**fields | {"name": f"{fields['name']}_bias"})
                sources[f"{ours}.experts.{e}.{part}.bias"] = Source(bias)
    return sources
