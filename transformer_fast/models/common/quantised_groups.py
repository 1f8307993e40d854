"""Weights of few bits with a scale and a zero for each group of a row: GPTQ, AWQ, compressed-tensors' "pack-quantized".

`quantised.read_integers` calls `read_groups` where `is_grouped` says so. A layer's tensors become one `GroupTensor`
under the name of its weight, which is read as a `GroupWeight`: its rows are computed when they are packed. All three
store W[n, k] = (q[n, k] - zero[n, g(k)]) * scale[n, g(k)]; they differ in names, in the order of the bits, in what zero
is stored as and in which axis comes first. Another such form is a function beside `_gptq`, and its line in `_METHODS`.

Formats: AutoGPTQ and GPTQModel (nn_modules/qlinear), AutoAWQ (awq/utils/packing_utils.py),
https://github.com/vllm-project/compressed-tensors (compressors/pack_quantized).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import Tensor
from transformer_fast.models.common.group_weight import GroupMatrix, GroupWeight
from transformer_fast.models.common.quantised_settings import Place

_BITS = (2, 3, 4, 8)
# The columns that AWQ's eight numbers of a word belong to.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclasses.dataclass(frozen=True)
class GroupTensor(Tensor):
    """A weight (N, K) whose tensors are those of groups.

    matrix: what they say, read once it is used. expands: is it read as an array?
    """

    matrix: Callable[[], GroupMatrix] | None = None
    expands: bool = False

    def array(self) -> np.ndarray:
        """The values, a copy: float32."""
        return GroupWeight.of(self.matrix()).dequantised()

    def floating(self) -> Any:
        """The weight, a GroupWeight; an array where `expands`."""
        return self.array() if self.expands else GroupWeight.of(self.matrix())

    def expanded(self) -> GroupTensor:
        """The same, read as an array."""
        return dataclasses.replace(self, expands=True)


def is_grouped(settings: Mapping[str, Any]) -> bool:
    """Do config.json's settings speak of weights in groups?"""
    method = settings.get("quant_method")
    return method in ("gptq", "awq") or (method == "compressed-tensors" and settings.get("format") == "pack-quantized")


def read_groups(settings: Mapping[str, Any], place: Place, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint with a `GroupTensor` for each weight in groups.

    Raises:
        CheckpointError: config.json asks for what is not supported, or tensors are missing, left over or misshapen.
    """
    layers = _Layers(tensors, *_METHODS[settings["quant_method"]](settings, place))
    return layers.read(place)


@dataclasses.dataclass(frozen=True)
class _Form:
    """How one kind of file stores a weight.

    parts: the ends of its tensors' names, the packed one first; those in `optional` may be missing. kept: does
    config.json list this layer among those that are not quantised?
    """

    parts: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[_Layer], GroupTensor]
    kept: Callable[[str], bool]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """The tensors of one layer: name's end -> tensor; what `settings` says of it."""

    name: str
    parts: Mapping[str, Tensor]
    settings: _Settings

    def needed(self, part: str, code: str, shape: tuple[int, ...], why: str) -> Tensor:
        """A tensor of a type and shape.

        Raises:
            CheckpointError: it is another one.
        """
        tensor = self.parts[part]
        if tensor.code != code or tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name!r} is {tensor.code} {tensor.shape}; needed: {code} {shape}, {why}"
            )
        return tensor

    def scales(self, part: str, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
        """Reads the scales as they are stored."""
        tensor = self.parts[part]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name!r} has shape {tensor.shape}; needed: {shape}, a scale for each "
                f"group of {self.settings.group_size or 'all'} columns"
            )

        def read() -> np.ndarray:
            found = tensor.floating()
            if not np.isfinite(found.astype(np.float32)).all():
                raise CheckpointError(f"{tensor.file}: tensor {tensor.name!r} holds NaN or infinity; needed: scales")
            return found

        return read

    def groups(self, part: str, columns: int, count: int) -> Callable[[], np.ndarray]:
        """Reads the group of each column: the file's, or those of group_size columns one after the other."""
        size = self.settings.group_size or columns
        tensor = self.parts.get(part)
        if tensor is None:
            return lambda: np.arange(columns) // size
        self.needed(part, "I32", (columns,), "the group of each column")

        def read() -> np.ndarray:
            found = tensor.array()
            if columns and not 0 <= found.min() <= found.max() < count:
                raise CheckpointError(
                    f"{tensor.file}: tensor {tensor.name!r} holds {found.min()} to {found.max()}; "
                    f"needed: 0 to {count - 1}"
                )
            return found

        return read

    def tensor(self, packed: Tensor, shape: tuple[int, int], **matrix: Callable[[], Any]) -> GroupTensor:
        """matrix: the fields of `GroupMatrix`, as what reads them."""
        bits = self.settings.bits

        def read() -> GroupMatrix:
            return GroupMatrix(bits, **{name: field() for name, field in matrix.items()})

        return GroupTensor(packed.name, packed.file, packed.code, shape, packed.data, matrix=read)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """bits of a number; group_size: columns of a group, None: all; the rest: see the methods."""

    bits: int
    group_size: int | None
    first_zero: int = 0  # what a zero that is stored as 0 stands for
    ordered: bool = False  # columns have groups of their own, which the file must tell
    symmetric: bool = False
    one_scale: bool = False


class _Layers:
    """The layers of a checkpoint that are stored in a form."""

    def __init__(self, tensors: Mapping[str, Tensor], form: _Form, settings: _Settings) -> None:
        self._tensors, self._form, self._settings = tensors, form, settings

    def read(self, place: Place) -> dict[str, Tensor]:
        form, packed = self._form, f".{self._form.parts[0]}"
        names = [name.removesuffix(packed) for name in self._tensors if name.endswith(packed)]
        if not names:
            raise CheckpointError(f"{place.file}: {place.field} is given, and no tensor ends in {packed!r}")
        found = {n: t for n, t in self._tensors.items() if not self._is_part(n)}
        for name in names:
            parts = {part: t for part in form.parts if (t := self._tensors.get(f"{name}.{part}")) is not None}
            own = parts[form.parts[0]]
            missing = [part for part in form.parts if part not in parts and part not in form.optional]
            if missing:
                raise CheckpointError(f"{own.file}: tensor {own.name!r} is there without {name + '.' + missing[0]!r}")
            if f"{name}.weight" in self._tensors:
                raise CheckpointError(f"{own.file}: has tensors {own.name!r} and {name + '.weight'!r}; needed: one")
            if form.kept(name):
                raise CheckpointError(
                    f"{own.file}: there is a tensor {own.name!r}, and {place.file} lists {name!r} among the layers "
                    "that are not quantised"
                )
            found[f"{name}.weight"] = form.read(_Layer(name, parts, self._settings))
        return found

    def _is_part(self, name: str) -> bool:
        """Is it a tensor of a layer in groups?

        Raises:
            CheckpointError: it has such a name, but its layer has no packed tensor.
        """
        layer, _, end = name.rpartition(".")
        if end not in self._form.parts:
            return False
        if f"{layer}.{self._form.parts[0]}" not in self._tensors:
            file = self._tensors[name].file
            raise CheckpointError(f"{file}: tensor {name!r} is there without {layer + '.' + self._form.parts[0]!r}")
        return True


def _unpacked(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """`count` numbers of `bits` bits, one after the other in the words of each row, the lowest bits first: uint8."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets[:, :count]
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        return (octets[:, :, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(len(words), -1)[:, :count]
    ones = np.unpackbits(octets, axis=1, bitorder="little")[:, : count * bits].reshape(len(words), count, bits)
    return (ones << np.arange(bits, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)


def _words(count: int, bits: int) -> int:
    """How many words of 32 bits hold so many numbers."""
    return -(-count * bits // 32)


def _packed(layer: _Layer, part: str, axes: str) -> Tensor:
    tensor = layer.parts[part]
    if tensor.code != "I32" or len(tensor.shape) != 2:
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name!r} is {tensor.code} {tensor.shape}; needed: I32 {axes}"
        )
    return tensor


def _group_size(place: Place, settings: Mapping[str, Any]) -> int | None:
    size = settings.get("group_size")
    if size in (None, -1):
        return None
    if type(size) is not int or size < 1:
        raise CheckpointError(f"{place.file}: {place.field}.group_size is {size!r}; needed: an integer >= 1, or -1")
    return size


def _group_count(settings: _Settings, columns: int) -> int:
    return 1 if settings.group_size is None else -(-columns // settings.group_size)


# --- GPTQ -------------------------------------------------------------------------------------------------------------

# How the weights were found, and what runs them elsewhere.
_ORIGIN = dict.fromkeys(
    (
        "act_group_aware",
        "backend",
        "batch_size",
        "block_name_to_quantize",
        "cache_block_outputs",
        "damp_auto_increment",
        "damp_percent",
        "dataset",
        "disable_exllama",
        "exllama_config",
        "inside_layer_modules",
        "lm_head",
        "max_input_length",
        "meta",
        "model_file_base_name",
        "model_name_or_path",
        "model_seqlen",
        "module_name_preceding_first_block",
        "modules_in_block_to_quantize",
        "mse",
        "pad_token_id",
        "quant_method",
        "static_groups",
        "sym",
        "tokenizer",
        "true_sequential",
        "use_cuda_fp16",
        "use_exllama",
    )
)
_GPTQ = _ORIGIN | {
    "bits": _BITS,
    "group_size": None,  # `_group_size`
    "desc_act": (True, False),
    "checkpoint_format": ("gptq", "gptq_v2", None),
    "format": ("gptq", "gptq_v2", None),
    "is_marlin_format": (False,),
    "pack_dtype": ("int32", None),
    "dynamic": (None, {}),  # settings of some layers
    "adapter": (None, {}),
}


def _gptq(settings: Mapping[str, Any], place: Place) -> tuple[_Form, _Settings]:
    place.check(settings, _GPTQ, needed=("bits", "group_size"))
    kind = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    ordered = bool(settings.get("desc_act"))
    parts = ("qweight", "qzeros", "scales", "g_idx")
    form = _Form(parts, () if ordered else ("g_idx",), _gptq_weight, kept=lambda name: False)
    # The first version stores zeros less 1.
    found = _Settings(settings["bits"], _group_size(place, settings), int(kind == "gptq"), ordered)
    return form, found


def _gptq_weight(layer: _Layer) -> GroupTensor:
    """qweight (K * bits / 32, N): numbers of a column follow each other; qzeros (G, N * bits / 32): those of a row."""
    own, packed = layer.settings, _packed(layer, "qweight", "(K * bits / 32, N)")
    bits, (words, rows) = own.bits, packed.shape
    columns = words * 32 // bits
    count = _group_count(own, columns)
    read_scales = layer.scales("scales", (count, rows))
    zeros = layer.needed("qzeros", "I32", (count, _words(rows, bits)), "zeros of all groups")

    return layer.tensor(
        packed,
        (rows, columns),
        integers=lambda: partial(_rows_of_columns, packed.array(), bits, columns),
        zeros=lambda: partial(_zeros, zeros.array(), bits, own.first_zero),
        scales=lambda: read_scales().T,
        groups=layer.groups("g_idx", columns, count),
    )


def _rows_of_columns(words: np.ndarray, bits: int, count: int, rows: np.ndarray) -> np.ndarray:
    """Rows (n, count) whose numbers follow each other in the columns of the words."""
    return _unpacked(words[:, rows].T, bits, count)


def _columns_of_rows(words: np.ndarray, bits: int, order: Sequence[int], columns: np.ndarray) -> np.ndarray:
    """Columns, as rows, of numbers that follow each other in the rows of the words: uint8.

    order: the column of each number of a word, where that is not its place.
    """
    if 32 % bits:
        return np.ascontiguousarray(_unpacked(words, bits, words.shape[1] * 32 // bits)[:, columns].T)
    count = 32 // bits
    places = np.argsort(order) if order else np.arange(count)
    shifts = (bits * places).astype(np.int32)[columns % count]
    return (words[:, columns // count] >> shifts & np.int32((1 << bits) - 1)).T.astype(np.uint8, order="C")


def _zeros(words: np.ndarray, bits: int, first: int, columns: np.ndarray) -> np.ndarray:
    """The same of zeros, where a 0 stands for `first`."""
    return _columns_of_rows(words, bits, (), columns).astype(np.int16) + np.int16(first)


# --- AWQ --------------------------------------------------------------------------------------------------------------

_AWQ = _ORIGIN | {
    "bits": (4,),
    "group_size": None,  # `_group_size`
    "zero_point": (True,),
    "version": ("gemm", "GEMM"),
    "format": ("gemm", "GEMM", None),
    "backend": (None, "autoawq", "auto"),
    "checkpoint_format": (None, "gemm"),
    "desc_act": (False, None),
    "do_fuse": None,
    "fuse_max_seq_len": None,
    "modules_to_fuse": None,
    "modules_to_not_convert": None,  # `_kept_parts`
}


def _awq(settings: Mapping[str, Any], place: Place) -> tuple[_Form, _Settings]:
    place.check(settings, _AWQ, needed=("bits", "group_size", "zero_point"))
    if settings.get("version") is None and settings.get("format") is None:
        raise CheckpointError(f"{place.file}: {place.field} has no field 'version'; needed: one")
    parts = _names(settings.get("modules_to_not_convert"), place, "modules_to_not_convert")
    form = _Form(("qweight", "qzeros", "scales"), (), _awq_weight, lambda name: any(part in name for part in parts))
    return form, _Settings(4, _group_size(place, settings))


def _awq_weight(layer: _Layer) -> GroupTensor:
    """qweight (K, N / 8), qzeros (G, N / 8), scales (G, N); the numbers of a word in an order of their own."""
    packed = _packed(layer, "qweight", "(K, N / 8)")
    columns, words = packed.shape
    rows, count = words * 8, _group_count(layer.settings, columns)
    read_scales = layer.scales("scales", (count, rows))
    zeros = layer.needed("qzeros", "I32", (count, words), "zeros of all groups")
    return layer.tensor(
        packed,
        (rows, columns),
        integers=lambda: partial(_columns_of_rows, packed.array(), 4, _AWQ_ORDER),
        zeros=lambda: partial(_columns_of_rows, zeros.array(), 4, _AWQ_ORDER),
        scales=lambda: read_scales().T,
        groups=layer.groups("g_idx", columns, count),
    )


# --- compressed-tensors -----------------------------------------------------------------------------------------------

_WEIGHTS = {
    "num_bits": _BITS,
    "type": ("int",),
    "symmetric": (True, False),
    "strategy": ("group", "channel", "tensor"),
    "group_size": None,  # `_group_size`
    "dynamic": (False,),
    "block_structure": (None,),
    "actorder": (None, "weight", "static", "group", "dynamic"),
    # How scales were found.
    "observer": None,
    "observer_kwargs": None,
    "scale_dtype": None,
    "zp_dtype": None,
}
_GROUP = {
    "targets": None,
    "weights": None,
    "input_activations": (None,),
    "output_activations": (None,),
    "format": (None, "pack-quantized"),
}
_COMPRESSED = {
    "quant_method": None,
    "format": ("pack-quantized",),
    "quantization_status": ("compressed",),
    "config_groups": None,
    "ignore": None,  # `_kept_names`
    "kv_cache_scheme": (None,),
    "sparsity_config": (None, {}),
    "transform_config": (None, {}),
    "global_compression_ratio": None,
    "version": None,
}
# What all groups must agree in: which layers are of which group say targets, which name classes of another library.
_AGREEING = ("num_bits", "symmetric", "strategy", "group_size", "actorder")


def _compressed(settings: Mapping[str, Any], place: Place) -> tuple[_Form, _Settings]:
    place.check(settings, _COMPRESSED, needed=("format", "quantization_status", "config_groups"))
    groups = settings["config_groups"]
    if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
        raise CheckpointError(f"{place.file}: {place.field}.config_groups is {groups!r}; needed: groups by name")
    schemes = []
    for name, group in groups.items():
        where = place.part(f"config_groups.{name}")
        where.check(group, _GROUP, needed=("weights",))
        if not isinstance(group["weights"], dict):
            raise CheckpointError(f"{where.file}: {where.field}.weights is {group['weights']!r}; needed: settings")
        where.part("weights").check(group["weights"], _WEIGHTS, needed=("num_bits", "type", "symmetric", "strategy"))
        schemes.append((where.part("weights"), group["weights"]))
    where, weights = schemes[0]
    for _, other in schemes[1:]:
        for name in _AGREEING:
            if other.get(name) != weights.get(name):
                raise CheckpointError(f"{place.file}: {place.field}.config_groups differ in {name}; needed: the same")
    strategy, symmetric = weights["strategy"], weights["symmetric"]
    size = _group_size(where, weights)
    if (strategy == "group") != (size is not None):
        raise CheckpointError(
            f"{where.file}: {where.field}.strategy is {strategy!r} and group_size {weights.get('group_size')!r}; "
            "needed: group_size for groups alone"
        )
    if strategy == "tensor" and not symmetric:
        raise CheckpointError(f"{where.file}: {where.field}.symmetric is False; needed with strategy 'tensor': True")
    ordered = weights.get("actorder") in ("group", "dynamic")
    optional = () if ordered else ("weight_g_idx",)
    optional += ("weight_zero_point",) if symmetric else ()
    parts = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
    names = _names(settings.get("ignore"), place, "ignore")
    form = _Form(parts, optional, _compressed_weight, kept=lambda name: _is_listed(name, names, place))
    one = strategy == "tensor"
    return form, _Settings(weights["num_bits"], size, ordered=ordered, symmetric=symmetric, one_scale=one)


def _is_listed(name: str, patterns: Iterable[str], place: Place) -> bool:
    """Does a name, or a regular expression after "re:", mean this layer?"""
    for pattern in patterns:
        try:
            if re.match(pattern[3:], name) if pattern.startswith("re:") else pattern == name:
                return True
        except re.error as error:
            raise CheckpointError(f"{place.file}: {place.field}.ignore holds {pattern!r}: {error}") from None
    return False


def _compressed_weight(layer: _Layer) -> GroupTensor:
    """weight_packed (N, K * bits / 32), weight_scale (N, G), weight_zero_point (N * bits / 32, G), weight_shape."""
    own, packed = layer.settings, _packed(layer, "weight_packed", "(N, K * bits / 32)")
    rows, columns = _shape(layer, packed)
    bits, count = own.bits, _group_count(own, columns)
    half = 1 << bits - 1
    scale = layer.parts["weight_scale"]
    stored = scale.shape if own.one_scale and scale.shape in ((), (1,), (1, 1)) else (rows, count)
    stored = (rows,) if count == 1 and scale.shape == (rows,) else stored
    read_scales = layer.scales("weight_scale", stored)
    zeros = layer.parts.get("weight_zero_point")
    if own.symmetric and zeros is not None:
        if np.any(zeros.array()):
            raise CheckpointError(f"{zeros.file}: tensor {zeros.name!r} is not 0; needed for symmetric weights")
        zeros = None
    if zeros is not None:
        layer.needed("weight_zero_point", "I32", (_words(rows, bits), count), "zeros of all groups")

    def read_zeros() -> Callable[[np.ndarray], np.ndarray]:
        if zeros is None:
            return partial(_one_zero, half, count)
        return partial(_zeros, zeros.array().T, bits, 0)

    return layer.tensor(
        packed,
        (rows, columns),
        integers=lambda: partial(_rows_of_rows, packed.array(), bits, columns),
        zeros=read_zeros,
        scales=lambda: np.broadcast_to(read_scales().reshape(-1, count), (rows, count)),
        groups=layer.groups("weight_g_idx", columns, count),
    )


def _rows_of_rows(words: np.ndarray, bits: int, count: int, rows: np.ndarray) -> np.ndarray:
    return _unpacked(words[rows], bits, count)


def _one_zero(zero: int, count: int, rows: np.ndarray) -> np.ndarray:
    return np.full((len(rows), count), zero, np.int16)


def _shape(layer: _Layer, packed: Tensor) -> tuple[int, int]:
    tensor = layer.parts["weight_shape"]
    if tensor.code not in ("I64", "I32") or tensor.shape != (2,):
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name!r} is {tensor.code} {tensor.shape}; needed: I64 (2,), rows and columns"
        )
    rows, columns = (int(size) for size in tensor.array())
    if columns < 0 or packed.shape != (rows, _words(columns, layer.settings.bits)):
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name!r} is [{rows}, {columns}], and {packed.name!r} has shape "
            f"{packed.shape}; needed: the words of {layer.settings.bits} bits each"
        )
    return rows, columns


def _names(value: Any, place: Place, field: str) -> list[str]:
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise CheckpointError(f"{place.file}: {place.field}.{field} is {value!r}; needed: a list of names")
    return value or []


_METHODS: Mapping[str, Callable[[Mapping[str, Any], Place], tuple[_Form, _Settings]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed,
}
