"""`compute_type` of `load_model`: which weights of a model are packed in which format.

`PretrainedModel.from_checkpoint` and the modules of sentence encoders call this. A new format is in `functional.linear`
alone (docs/adding_a_weight_format.md); what a model does with a name is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from transformer_fast.functional.linear import AS_STORED, AS_STORED_A8, FORMATS
from transformer_fast.functional.stored_weight import StoredWeight
from transformer_fast.nn import Module

# A name, or names of parts of the model and "" for all others -> a name.
ComputeType: TypeAlias = str | Mapping[str, str]

# "auto": what a weight is stored in, but for integers. "auto_a8": the same, with activations of 8 bits for blocks.
_AUTO_A8 = "auto_a8"
_FORMATS = {"auto": AS_STORED, _AUTO_A8: AS_STORED_A8} | {name: name for name in FORMATS}


def weight_format_of(compute_type: ComputeType) -> str:
    """How weights are packed for a compute_type, but for the parts that it names.

    Raises:
        ValueError: there is no such compute_type.
        TypeError: it is neither a name nor a mapping.

    Example:
        >>> weight_format_of({"": "int8", "lm_head": "float32"})
        'int8'
    """
    return _FORMATS[_named(compute_type)[""]]


def set_weight_formats(
    model: Module, compute_type: ComputeType, tensors: Mapping[str, Iterable[str]], stored: Mapping[str, str]
) -> None:
    """Sets the weight formats of all parts of a model. tensors: parameter -> the checkpoint's tensors it is made of;
    stored: parameter -> the format that "auto" stands for.

    A part is named by our name or by the checkpoint's, whole ("lm_head") or from or to a dot ("layers.0.attention",
    "pooler", "encoder.layer.11"). The longest name that fits a parameter counts.

    Raises:
        ValueError: there is no such compute_type, or the model has no such part.
    """
    model.set_weight_format(weight_format_of(compute_type))
    modules = dict(model.named_modules())
    for parameter, format in formats_of_parameters(model, compute_type, tensors, stored).items():
        modules[parameter.rpartition(".")[0]].weight_format = format


def formats_of_parameters(
    model: Module, compute_type: ComputeType, tensors: Mapping[str, Iterable[str]], stored: Mapping[str, str]
) -> dict[str, str]:
    """Parameter -> format, of the matrices; arguments and errors of `set_weight_formats`.

    A module with `keeps_float32` (a router of experts) is not meant by what is said of all others.
    """
    named, formats = _named(compute_type), {}
    rest = named.pop("")
    exact = {name for name, module in model.named_modules() if getattr(module, "keeps_float32", False)}
    unknown = set(named)
    for parameter, array in model.named_parameters():
        names = (parameter, *tensors.get(parameter, ()))
        found = [part for part in named if any(f".{part}." in f".{name}." for name in names)]
        unknown.difference_update(found)
        name = named[max(found, key=len)] if found else rest
        if not found and name not in ("auto", _AUTO_A8) and parameter.rpartition(".")[0] in exact:
            name = "float32"
        if array.ndim == 2:
            as_in_file = stored.get(parameter, "float32")
            if name == _AUTO_A8:
                formats[parameter] = AS_STORED_A8 if as_in_file == AS_STORED else as_in_file
            else:
                formats[parameter] = as_in_file if name == "auto" else _FORMATS[name]
    if AS_STORED not in stored.values():
        _check_blocks(model, compute_type, ())
    if unknown:
        parts = sorted({name.partition(".")[0] for name, _ in model.named_parameters()})
        raise ValueError(
            f"compute_type names {', '.join(map(repr, sorted(unknown)))}, which {type(model).__name__} does not have; "
            f"needed: parts of it, like {', '.join(parts)}, or the beginnings of its tensors' names"
        )
    return formats


def check_blocks(model: Module, compute_type: ComputeType) -> None:
    """Of a model that has its parameters.

    Raises:
        ValueError: "auto_a8" is asked for, and no weight is in blocks.
    """
    _check_blocks(model, compute_type, (weight for _, weight in model.named_parameters()))


def _check_blocks(model: Module, compute_type: ComputeType, weights: Iterable[Any]) -> None:
    if _AUTO_A8 not in _named(compute_type).values():
        return
    if not any(isinstance(weight, StoredWeight) and weight.format for weight in weights):
        raise ValueError(
            f"compute_type is {_AUTO_A8!r}, which is for weights in blocks (GGUF files, folders of 4 bits), and "
            f"{type(model).__name__} has none there; needed: 'auto', or another of {', '.join(FORMATS)}"
        )


def _named(compute_type: ComputeType) -> dict[str, str]:
    """Part -> compute type, "" among them."""
    if not isinstance(compute_type, (str, Mapping)):
        raise TypeError(f"compute_type is {compute_type!r}; needed: a name, or a mapping of parts to names")
    named = {"": compute_type} if isinstance(compute_type, str) else {"": "auto", **compute_type}
    for name in named.values():
        if not isinstance(name, str) or name not in _FORMATS:
            raise ValueError(f"compute_type is {name!r}; needed: one of {', '.join(_FORMATS)}")
    return named
