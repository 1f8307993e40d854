"""Checkpoints whose weights are integers: compressed-tensors and bitsandbytes in 8 bits, and forms with groups.

`PretrainedModel.from_checkpoint` calls `read_integers` first of all: the tensors that belong to a weight are put
together, under the names of the file, and config.json is as if it said nothing of it. So no family knows of it. What is
not supported is refused by name. Another kind of file is a function beside the two below, and its line in
`read_integers`; one of few bits with scales for groups is told in `quantised_groups`.

Formats: https://github.com/vllm-project/compressed-tensors and transformers' BitsAndBytesConfig.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import Tensor
from transformer_fast.functional import IntegerWeight
from transformer_fast.models.common.quantised_groups import is_grouped, read_groups
from transformer_fast.models.common.quantised_settings import Place

_FIELDS = ("quantization_config", "compression_config")


@dataclasses.dataclass(frozen=True)
class IntegerTensor(Tensor):
    """The int8 tensor of a weight, with the scale of each row."""

    scale: np.ndarray | None = None

    def floating(self) -> Any:
        """The weight, an IntegerWeight."""
        return IntegerWeight(self.array(), self.scale)


def read_integers(checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """The checkpoint with its integers as `IntegerTensor`s, and the format that config.json asks for.

    Where config.json does not speak of integers that are known here, the same checkpoint and "float32".

    Raises:
        CheckpointError: config.json asks for what is not supported, or tensors are missing or malformed.
    """
    field = next((name for name in _FIELDS if isinstance(checkpoint.config.get(name), dict)), None)
    settings = checkpoint.config[field] if field else {}
    place = Place(checkpoint.source.place("config.json"), field or "")
    if is_grouped(settings):
        tensors = read_groups(settings, place, checkpoint.tensors)
        return _without(checkpoint, field, tensors), "float32"
    if settings.get("quant_method") == "compressed-tensors":
        format, parts = _compressed_tensors(settings, place), (".weight_scale", ".weight_zero_point")
        read = _compressed_weight
    elif settings.get("quant_method") == "bitsandbytes" and settings.get("load_in_8bit"):
        format, parts = _bitsandbytes(settings, place), (".SCB", ".weight_format")
        read = _bitsandbytes_weight
    elif settings.get("quant_method") == "bitsandbytes":
        kind = settings.get("bnb_4bit_quant_type", "fp4")
        raise CheckpointError(
            f"{place.file}: {field} asks for bitsandbytes with load_in_8bit {settings.get('load_in_8bit')!r} and "
            f"load_in_4bit {settings.get('load_in_4bit')!r} ({kind}); supported: load_in_8bit"
        )
    else:
        return checkpoint, "float32"
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith(parts)}
    for name in checkpoint.tensors:
        if name.endswith(parts[1]) and name.removesuffix(parts[1]) + parts[0] not in checkpoint.tensors:
            raise CheckpointError(f"{checkpoint.tensors[name].file}: tensor {name!r} is there without {parts[0]!r}")
        if name.endswith(parts[0]):
            weight = name.removesuffix(parts[0]) + ".weight"
            tensors[weight] = read(checkpoint.tensors, name.removesuffix(parts[0]))
    return _without(checkpoint, field, tensors), format


def _without(checkpoint: Checkpoint, field: str, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """The checkpoint with other tensors, and without what config.json says of them."""
    config = {name: value for name, value in checkpoint.config.items() if name != field}
    return dataclasses.replace(checkpoint, tensors=tensors, config=config)


# --- compressed-tensors -----------------------------------------------------------------------------------------------

# How scales were found, which has happened.
_OBSERVATION = {"observer": None, "observer_kwargs": None, "scale_dtype": None, "zp_dtype": None}
_WEIGHTS = {
    "num_bits": (8,),
    "type": ("int",),
    "symmetric": (True,),
    "strategy": ("channel", "tensor", None),  # the scale's shape says it
    "dynamic": (False,),
    "group_size": (None, -1),  # -1: a group is a row
    "block_structure": (None,),
    "actorder": (None,),
    **_OBSERVATION,
}
_ACTIVATIONS = _WEIGHTS | {"symmetric": (True, False), "strategy": ("token",), "dynamic": (True,)}
_GROUP = {
    "targets": None,
    "weights": None,
    "input_activations": None,
    "output_activations": (None,),
    "format": (None, "int-quantized"),
}
_COMPRESSED = {
    "quant_method": None,
    "format": ("int-quantized",),
    "quantization_status": ("compressed",),
    "config_groups": None,
    "ignore": None,  # layers that are not quantised: the tensors say so themselves
    "kv_cache_scheme": (None,),
    "sparsity_config": None,  # `_check_density`
    "transform_config": (None, {}),
    "global_compression_ratio": None,
    "version": None,
}


def _compressed_tensors(settings: Mapping[str, Any], place: Place) -> str:
    place.check(settings, _COMPRESSED, needed=("format", "quantization_status", "config_groups"))
    _check_density(settings.get("sparsity_config"), place)
    groups, formats = settings.get("config_groups"), set()
    if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
        raise CheckpointError(f"{place.file}: {place.field}.config_groups is {groups!r}; needed: groups by name")
    for name, group in groups.items():
        where = place.part(f"config_groups.{name}")
        where.check(group, _GROUP)
        weights, activations = group.get("weights"), group.get("input_activations")
        if not isinstance(weights, dict):
            raise CheckpointError(f"{where.file}: {where.field}.weights is {weights!r}; needed: settings")
        where.part("weights").check(weights, _WEIGHTS, needed=("num_bits", "type", "symmetric"))
        if activations is not None:
            if not isinstance(activations, dict):
                raise CheckpointError(f"{where.file}: {where.field}.input_activations is {activations!r}")
            needed = ("num_bits", "type", "strategy", "dynamic")
            where.part("input_activations").check(activations, _ACTIVATIONS, needed)
        formats.add("int8_a16" if activations is None else "int8")
    if len(formats) > 1:
        raise CheckpointError(
            f"{place.file}: {place.field}.config_groups has groups with and without input_activations; needed: one kind"
        )
    return formats.pop()


def _check_density(sparsity: Any, place: Place) -> None:
    """Tensors of zeros and numbers alike: programs write "dense" with figures of how many zeros there are."""
    if sparsity and (not isinstance(sparsity, dict) or sparsity.get("format") != "dense"):
        raise CheckpointError(f"{place.file}: {place.field}.sparsity_config is {sparsity!r}; supported: format 'dense'")


def _compressed_weight(tensors: Mapping[str, Tensor], layer: str) -> IntegerTensor:
    weight, scale = _weight(tensors, layer), tensors[f"{layer}.weight_scale"]
    zero = tensors.get(f"{layer}.weight_zero_point")
    if zero is not None and np.any(zero.array()):
        raise CheckpointError(f"{zero.file}: tensor {zero.name!r} is not 0; needed: symmetric weights")
    return _with_scale(weight, scale, scale.floating())


# --- bitsandbytes -----------------------------------------------------------------------------------------------------

_BITSANDBYTES = {
    "quant_method": None,
    "load_in_8bit": (True,),
    "load_in_4bit": (False,),
    "_load_in_8bit": (True,),
    "_load_in_4bit": (False,),
    # How that library treats outliers of activations while it runs, and settings of 4 bits: both without effect here.
    "llm_int8_threshold": None,
    "llm_int8_skip_modules": None,
    "llm_int8_enable_fp32_cpu_offload": None,
    "llm_int8_has_fp16_weight": (False,),
    "bnb_4bit_compute_dtype": None,
    "bnb_4bit_quant_storage": None,
    "bnb_4bit_quant_type": None,
    "bnb_4bit_use_double_quant": None,
}


def _bitsandbytes(settings: Mapping[str, Any], place: Place) -> str:
    place.check(settings, _BITSANDBYTES)
    return "int8_a16"


def _bitsandbytes_weight(tensors: Mapping[str, Tensor], layer: str) -> IntegerTensor:
    weight, scale, order = _weight(tensors, layer), tensors[f"{layer}.SCB"], tensors.get(f"{layer}.weight_format")
    if order is not None and np.any(order.array()):
        raise CheckpointError(f"{order.file}: tensor {order.name!r} is {order.array()}; needed: 0, rows in order")
    return _with_scale(weight, scale, scale.floating() / np.float32(127))


# ----------------------------------------------------------------------------------------------------------------------


def _weight(tensors: Mapping[str, Tensor], layer: str) -> Tensor:
    weight = tensors.get(f"{layer}.weight")
    if weight is None or weight.code != "I8" or len(weight.shape) != 2:
        found = "missing" if weight is None else f"{weight.code} of shape {weight.shape}"
        place = next(iter(tensors.values())).file if weight is None else weight.file
        raise CheckpointError(f"{place}: tensor {layer + '.weight'!r} is {found}; needed: I8 (N, K), as it has a scale")
    return weight


def _with_scale(weight: Tensor, told_by: Tensor, scale: np.ndarray) -> IntegerTensor:
    """scale: (N,), (N, 1), or one number for all rows."""
    rows = weight.shape[0]
    if scale.shape not in ((rows,), (rows, 1), (1,), (1, 1), ()):
        raise CheckpointError(
            f"{told_by.file}: tensor {told_by.name!r} has shape {scale.shape}; needed: {(rows, 1)}, or one number"
        )
    values = np.ascontiguousarray(np.broadcast_to(scale.astype(np.float32).reshape(-1), rows))
    if not (np.isfinite(values) & (values >= 0)).all():
        raise CheckpointError(f"{told_by.file}: tensor {told_by.name!r} holds numbers that are no scale; needed: >= 0")
    fields = {field.name: getattr(weight, field.name) for field in dataclasses.fields(Tensor)}
    return IntegerTensor(**fields, scale=values)
