"""`from_torch`: a trained torch module as one of ours, with its weights copied. Called by users who trained with torch.

`_RULES` holds, for each class of torch.nn that can be translated, how ours is made and which of its parts ours goes
without; parameters and the other parts are then filled in by name, which works because our blocks have torch's names.
A new block of `nn` with a twin in torch.nn gets a line there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from transformer_fast import nn
from transformer_fast.nn.init import unset_parameters

Translate = Callable[[torch.nn.Module], nn.Module]
Factory = Callable[[torch.nn.Module, Translate], nn.Module]


def from_torch(module: torch.nn.Module, *, custom: Mapping[type[torch.nn.Module], Factory] | None = None) -> nn.Module:
    """A torch module, with all that is nested in it, as a module of `transformer_fast.nn` that computes the same.

    Weights are copied to float32 from float16, bfloat16, float32 or float64, on any device; the torch module is not
    changed, and may be changed or thrown away afterwards. Parameters and parts that torch shares stay shared, and names
    in the state dict stay the same. Whatever mode the module is in, the evaluation mode is what ours computes. Of
    parametrisations (torch.nn.utils.parametrize), weight_norm, spectral_norm and pruning ours has the weights that they
    give.

    A class of your own has a forward that cannot be read off its parts. custom[TheClass] is a function of the module
    and of `translate`, which turns one of its parts into ours; it returns a `transformer_fast.nn.Module`. Classes of
    torch.nn may be given too, and are then no longer translated by the built-in rule.

    Raises:
        TypeError: a class that is not known, or a parameter that is not of a floating-point type; names its path.
        NotImplementedError: an option that ours does not have, another forward hook, or a method that is set on an
            object instead of its class (forward); names the path.

    Example:
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
        >>> ours = from_torch(mlp)
        >>> ours
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): GELU(approximate='none')
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
        >>> x = np.ones((3, 4), np.float32)
        >>> np.allclose(ours(x), mlp(torch.from_numpy(x)).detach(), atol=1e-6)
        True
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; needed: a torch.nn.Module")
    hooks = {**torch_module._global_forward_pre_hooks, **torch_module._global_forward_hooks}
    if hooks:
        raise NotImplementedError(f"torch has forward hooks for all modules ({_listed(hooks)}); needed: none")
    return _Translation(module, dict(custom or {})).of(module)


class _Translation:
    """One call of from_torch: where each part stands, and what has been translated already."""

    def __init__(self, root: torch.nn.Module, custom: dict[type, Factory]) -> None:
        self._custom = custom
        self._paths = {id(part): f"module.{name}" if name else "module" for name, part in root.named_modules()}
        # By id; the object is kept beside its translation, as the id of one that is gone may be given to another.
        self._modules: dict[int, tuple[torch.nn.Module, nn.Module]] = {}
        self._arrays: dict[int, tuple[torch.Tensor, np.ndarray]] = {}

    def path(self, module: torch.nn.Module) -> str:
        return self._paths.get(id(module), "module")

    def of(self, module: torch.nn.Module) -> nn.Module:
        """The translated module, made once for each object."""
        if id(module) not in self._modules:
            self._modules[id(module)] = module, self._translated(module)
        return self._modules[id(module)][1]

    def _translated(self, module: torch.nn.Module) -> nn.Module:
        path, cls = self.path(module), parametrize.type_before_parametrizations(module)
        # A factory reads the weights by itself, not as the hooks would have them.
        _check_nothing_is_lost(module, f"{path} ({cls.__name__})", reweighted=cls not in self._custom)
        if cls in self._custom:
            ours = self._custom[cls](module, self.of)
            if not isinstance(ours, nn.Module):
                raise TypeError(
                    f"custom[{cls.__name__}] gave a {type(ours).__name__} for {path}; "
                    "needed: a transformer_fast.nn.Module"
                )
            return ours
        name = _known_class(cls)
        if name is None:
            raise TypeError(
                f"{path} is a {cls.__module__}.{cls.__qualname__}, which from_torch does not know; "
                f"needed: one of {', '.join(_RULES)}, or custom={{{cls.__name__}: factory}}"
            )
        parts = {key: self.of(part) for key, part in _parts(module).items()}
        with _naming(path, name), unset_parameters():
            ours = _RULES[name].make(module, parts)
        self._fill(ours, module, {key: part for key, part in parts.items() if key not in _RULES[name].without})
        return ours

    def _fill(self, ours: nn.Module, module: torch.nn.Module, parts: dict[str, nn.Module]) -> None:
        """Puts the translated parts and the parameters in the place of those that `ours` was made with."""
        path = self.path(module)
        for name, part in parts.items():
            if isinstance(ours, _CONTAINERS):
                ours._add(name, part)
                continue
            current = ours._modules.get(name)
            if current is part:
                continue
            if type(part) is not type(current):
                needed = "no such part" if current is None else type(current).__name__
                raise NotImplementedError(f"{path}.{name} became a {type(part).__name__}; needed: {needed}")
            setattr(ours, name, part)
        parameters = _effective_parameters(module)
        own = {name for name, array in ours._parameters.items() if array is not None}
        theirs = set(_parts(module))
        if own != set(parameters) or not set(ours._modules) <= theirs:
            raise NotImplementedError(
                f"{path} has parameters {sorted(parameters)} and parts {sorted(theirs)}; "
                f"needed: {sorted(own)} and {sorted(ours._modules)}"
            )
        for name, tensor in parameters.items():
            setattr(ours, name, self._array(f"{path}.{name}", tensor))
        ours._loaded()

    def _array(self, label: str, parameter: torch.Tensor) -> np.ndarray:
        """A read-only float32 copy, one for each tensor."""
        if id(parameter) not in self._arrays:
            if not parameter.is_floating_point():
                raise TypeError(f"{label} has dtype {parameter.dtype}; needed: a floating-point type")
            if parameter.is_meta:
                raise TypeError(f"{label} is on the meta device; needed: a tensor with values")
            array = parameter.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
            array.flags.writeable = False
            self._arrays[id(parameter)] = parameter, array
        return self._arrays[id(parameter)][1]


# ---------------------------------------------------------------------------------------------------------------------
# What changes a module's weights or its forward without a class of its own


def _parts(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    parts = {key: part for key, part in module._modules.items() if part is not None}
    if parametrize.is_parametrized(module):
        del parts["parametrizations"]
    return parts


def _effective_parameters(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters as its forward sees them in evaluation mode. The module is not changed."""
    parameters = {name: tensor for name, tensor in module._parameters.items() if tensor is not None}
    with torch.no_grad():
        for hook in module._forward_pre_hooks.values():
            name, sources, compute = _reweighting(hook)
            for source in sources:
                del parameters[source]
            parameters[name] = compute(module)
        if parametrize.is_parametrized(module):
            with _evaluation(module.parametrizations):
                parameters |= {name: getattr(module, name) for name in module.parametrizations}
    return parameters


@contextmanager
def _evaluation(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: in training, spectral_norm changes its state with each look at a weight."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _reweighting(hook: Any) -> tuple[str, tuple[str, ...], Callable[[torch.nn.Module], torch.Tensor]] | None:
    """Of a hook that only computes a weight from parameters: its name, theirs, and how; else None."""
    if type(hook) is WeightNorm:
        return hook.name, (f"{hook.name}_g", f"{hook.name}_v"), hook.compute_weight
    if type(hook) is SpectralNorm:
        return hook.name, (f"{hook.name}_orig",), lambda module: hook.compute_weight(module, do_power_iteration=False)
    methods = ("__call__", "apply_mask")
    if isinstance(hook, BasePruningMethod) and all(
        getattr(type(hook), name) is getattr(BasePruningMethod, name) for name in methods
    ):
        return hook._tensor_name, (f"{hook._tensor_name}_orig",), hook.apply_mask
    return None


def _check_nothing_is_lost(module: torch.nn.Module, label: str, reweighted: bool) -> None:
    """Raises where the module's call does more than the forward of its class on its weights.

    reweighted: hooks that compute a weight are translated.
    """
    found = [_reweighting(hook) for hook in module._forward_pre_hooks.values()]
    sources = [source for entry in found if entry for source in entry[1]]
    # Two of them in a row: the second one may work on what the first one has made.
    in_turn = len(set(sources)) < len(sources) or not set(sources) <= module._parameters.keys()
    if module._forward_hooks or None in found or in_turn or (found and not reweighted):
        hooks = {**module._forward_pre_hooks, **module._forward_hooks}
        raise NotImplementedError(
            f"{label} has forward hooks, which would be lost: {_listed(hooks)}; needed: none, or one weight_norm, "
            "spectral_norm or pruning a weight"
        )
    replaced = [key for key in vars(module) if callable(getattr(type(module), key, None)) and key not in _HARMLESS]
    if replaced:
        raise NotImplementedError(
            f"{label} has {', '.join(replaced)} set on the object, which would be lost; needed: the class's own"
        )


def _listed(hooks: Mapping[Any, Any]) -> str:
    return ", ".join(getattr(hook, "__qualname__", type(hook).__qualname__) for hook in hooks.values())


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@contextmanager
def _naming(path: str, name: str) -> Iterator[None]:
    """Errors of our constructors say which module of the user they are about."""
    try:
        yield
    except (NotImplementedError, ValueError, TypeError) as error:
        raise type(error)(f"{path} ({name}): {error}") from error


def _known_class(cls: type) -> str | None:
    """The name in torch.nn of the class, or of the base that it computes the same as; None: not one that is known.

    A subclass computes the same if it overrides nothing of that base but how it is made and printed.
    """
    for index, base in enumerate(cls.__mro__):
        name = base.__name__
        if name in _RULES and getattr(torch.nn, name, None) is base:
            overridden = {
                key
                for child in cls.__mro__[:index]
                for key, value in vars(child).items()
                if hasattr(base, key) and (callable(value) or isinstance(value, property))
            }
            return name if overridden <= _HARMLESS else None
    return None


_HARMLESS = {
    "__init__",
    "__repr__",
    "__annotate__",
    "__annotate_func__",
    "extra_repr",
    "reset_parameters",
    "_reset_parameters",
}


# ---------------------------------------------------------------------------------------------------------------------
# How ours is made, from a module and its translated parts: a function for each class whose arguments are not simply its
# attributes. Parts that ours has by itself are replaced afterwards, so that only their sizes matter here.

Parts = dict[str, nn.Module]
Make = Callable[[Any, Parts], nn.Module]


def _made(cls: type[nn.Module], *attributes: str) -> Make:
    """Ours is made with the module's attributes of these names."""
    return lambda module, _: cls(**{name: getattr(module, name) for name in attributes})


def _with_bias(cls: type[nn.Module], *attributes: str) -> Make:
    """The same, and `bias` says whether there is one."""
    return lambda module, _: cls(**{name: getattr(module, name) for name in attributes}, bias=module.bias is not None)


def _layer_norm(module: torch.nn.LayerNorm, _: Parts) -> nn.Module:
    return nn.LayerNorm(module.normalized_shape, module.eps, module.weight is not None, module.bias is not None)


def _multihead_attention(module: torch.nn.MultiheadAttention, _: Parts) -> nn.Module:
    return nn.MultiheadAttention(
        module.embed_dim,
        module.num_heads,
        module.dropout,
        bias=module.in_proj_bias is not None,
        add_bias_kv=module.bias_k is not None,
        add_zero_attn=module.add_zero_attn,
        kdim=module.kdim,
        vdim=module.vdim,
        batch_first=module.batch_first,
    )


def _transformer_layer(cls: type[nn.Module]) -> Make:
    def make(module: Any, parts: Parts) -> nn.Module:
        return cls(
            module.self_attn.embed_dim,
            module.self_attn.num_heads,
            module.linear1.out_features,
            activation=_activation(module.activation, parts),
            batch_first=module.self_attn.batch_first,
            norm_first=module.norm_first,
            bias=module.linear1.bias is not None,
        )

    return make


# What torch.nn's Transformer layers are given for an activation, and what `functional.linear` calls it.
_FUNCTIONS = {
    torch.nn.functional.relu: "relu",
    torch.relu: "relu",
    torch.nn.functional.gelu: "gelu",
    torch.nn.functional.silu: "silu",
    torch.nn.functional.tanh: "tanh",
    torch.tanh: "tanh",
}


def _activation(function: Any, parts: Parts) -> Any:
    if "activation" in parts:
        return getattr(parts["activation"], "fused", None) or parts["activation"]
    if function in _FUNCTIONS:
        return _FUNCTIONS[function]
    raise NotImplementedError(
        f"activation is {function!r}; needed: relu, gelu, silu or tanh of torch.nn.functional, or a module"
    )


def _encoder(module: torch.nn.TransformerEncoder, parts: Parts) -> nn.Module:
    options = (module.enable_nested_tensor, module.mask_check)
    return _stacked(nn.TransformerEncoder(nn.Identity(), 0, parts.get("norm"), *options), parts)


def _decoder(module: torch.nn.TransformerDecoder, parts: Parts) -> nn.Module:
    return _stacked(nn.TransformerDecoder(nn.Identity(), 0, parts.get("norm")), parts)


def _stacked(stack: Any, parts: Parts) -> nn.Module:
    """An empty stack with the translated layers in it."""
    stack.layers = parts["layers"]
    stack.num_layers = len(stack.layers)
    return stack


def _transformer(module: torch.nn.Transformer, parts: Parts) -> nn.Module:
    ours = nn.Transformer(
        module.d_model,
        module.nhead,
        custom_encoder=nn.Identity(),
        custom_decoder=nn.Identity(),
        batch_first=module.batch_first,
    )
    ours.encoder, ours.decoder = parts["encoder"], parts["decoder"]
    return ours


@dataclass(frozen=True)
class _Rule:
    """How ours is made from a module; `without`: parts of the module that ours does not have or was made from."""

    make: Make
    without: frozenset[str] = frozenset()


_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
# Of Transformer layers: ours are made with the activation, and need no dropout.
_OWN = frozenset({"activation", "dropout", "dropout1", "dropout2", "dropout3"})

# Class of torch.nn -> its rule.
_RULES = {
    "Linear": _Rule(_with_bias(nn.Linear, "in_features", "out_features")),
    "LayerNorm": _Rule(_layer_norm),
    "RMSNorm": _Rule(_made(nn.RMSNorm, "normalized_shape", "eps", "elementwise_affine")),
    "Embedding": _Rule(_made(nn.Embedding, "num_embeddings", "embedding_dim", "padding_idx", "max_norm")),
    "Conv1d": _Rule(_with_bias(nn.Conv1d, *_CONVOLUTION)),
    "Conv2d": _Rule(_with_bias(nn.Conv2d, *_CONVOLUTION)),
    "LSTM": _Rule(_made(nn.LSTM, *_RECURRENT, "proj_size")),
    "GRU": _Rule(_made(nn.GRU, *_RECURRENT)),
    "MultiheadAttention": _Rule(_multihead_attention),
    "TransformerEncoderLayer": _Rule(_transformer_layer(nn.TransformerEncoderLayer), _OWN),
    "TransformerDecoderLayer": _Rule(_transformer_layer(nn.TransformerDecoderLayer), _OWN),
    "TransformerEncoder": _Rule(_encoder),
    "TransformerDecoder": _Rule(_decoder),
    "Transformer": _Rule(_transformer),
    "Sequential": _Rule(_made(nn.Sequential)),
    "ModuleList": _Rule(_made(nn.ModuleList)),
    "ModuleDict": _Rule(_made(nn.ModuleDict)),
    "ReLU": _Rule(_made(nn.ReLU)),
    "GELU": _Rule(_made(nn.GELU, "approximate")),
    "SiLU": _Rule(_made(nn.SiLU)),
    "Tanh": _Rule(_made(nn.Tanh)),
    "Sigmoid": _Rule(_made(nn.Sigmoid)),
    "Softmax": _Rule(_made(nn.Softmax, "dim")),
    "Dropout": _Rule(_made(nn.Dropout, "p")),
    "Identity": _Rule(_made(nn.Identity)),
}
