"""Checkpoints whose experts are stored as MXFP4: 4-bit numbers, 32 of which share a scale (gpt-oss).

`PretrainedModel.from_checkpoint` calls `read_mxfp4` first of all: the two tensors of a weight are put together under
the name that the weight has in files of floats, and config.json is as if it said nothing of it. Parameters are views of
the blocks, which are packed as they are ("MXFP4"), or expanded, some rows at a time, for another format. GGUF files
have blocks of the same numbers in another order, which `files.gguf_blocks` reads and the engine takes.

Format: OCP Microscaling Formats (MX) Specification 1.0, and transformers' integrations.mxfp4.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf_blocks import E2M1
from transformer_fast.files.source import Tensor
from transformer_fast.functional.bfloat16 import bfloat16_dtype
from transformer_fast.functional.stored_weight import StoredWeight

_BLOCKS, _SCALES = "_blocks", "_scales"
_BYTES = 16  # of a block: two numbers a byte, the lower half of it first
_BIAS = 127  # of E8M0, the type of the scales
_PAIRS = E2M1[np.stack([np.arange(256) & 15, np.arange(256) >> 4], axis=1)].astype(np.float32) / 2  # of each byte
# What config.json may say. Which layers have no blocks is told by the tensors; `dequantize` is how transformers runs.
_KNOWN = {"quant_method", "modules_to_not_convert", "dequantize"}


@dataclasses.dataclass(frozen=True)
class Mxfp4Tensor(Tensor):
    """The blocks (E, N, K / 32, 16) of E weights (N, K), with the tensor of their scales (E, N, K / 32)."""

    scales: Tensor | None = None

    def floating(self) -> Mxfp4Stack:
        """The weights, transposed as in files of floats: (E, K, N)."""
        return Mxfp4Stack(self.data.reshape(*self.scales.shape, _BYTES), self.scales.array())


class Mxfp4Weight(StoredWeight):
    """A weight (N, K): blocks (N, K / 32, 16) and scales (N, K / 32), both uint8.

    Example:
        >>> weight = Mxfp4Weight(np.full((1, 1, 16), 0x42, np.uint8), np.full((1, 1), 128, np.uint8))
        >>> weight.shape, weight.dequantised()[0, :2].tolist()
        ((1, 32), [2.0, 4.0])
    """

    __slots__ = ("_blocks", "_scales")

    def __init__(self, blocks: np.ndarray, scales: np.ndarray) -> None:
        self._blocks, self._scales = blocks, scales

    @property
    def shape(self) -> tuple[int, ...]:
        N, n = self._scales.shape
        return N, 2 * _BYTES * n

    def __getitem__(self, rows: slice | np.ndarray) -> Mxfp4Weight:
        return Mxfp4Weight(self._blocks[rows], self._scales[rows])

    @property
    def format(self) -> str:
        return "MXFP4"

    @property
    def blocks(self) -> np.ndarray:
        """The rows as a GGUF file has them: the scale, then number i under number i + 16, (N, 17 K / 32)."""
        N, n = self._scales.shape
        numbers = np.stack([self._blocks & 15, self._blocks >> 4], axis=-1).reshape(N, n, 2, _BYTES)
        found = np.empty((N, n, 1 + _BYTES), np.uint8)
        found[:, :, 0] = self._scales
        found[:, :, 1:] = numbers[:, :, 0] | numbers[:, :, 1] << 4
        return found.reshape(N, -1)

    def dequantised(self) -> np.ndarray:
        """The values, (N, K) bfloat16, which has them all."""
        factors = np.ldexp(np.float32(1), self._scales.astype(np.int32) - _BIAS)
        values = _PAIRS[self._blocks] * factors[:, :, None, None]
        return values.reshape(self.shape).astype(bfloat16_dtype())

    def __reduce__(self) -> tuple:
        return Mxfp4Weight, (self._blocks, self._scales)


class _Columns(NamedTuple):
    """A weight that is looked at by its columns."""

    T: Mxfp4Weight


class Mxfp4Stack:
    """E weights, by their columns: what `base.Part` reads the rows of the transposed matrices from."""

    def __init__(self, blocks: np.ndarray, scales: np.ndarray) -> None:
        self._blocks, self._scales = blocks, scales

    def __getitem__(self, matrix: int) -> _Columns:
        return _Columns(Mxfp4Weight(self._blocks[matrix], self._scales[matrix]))


def read_mxfp4(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its blocks as `Mxfp4Tensor`s; the same one where config.json does not speak of MXFP4.

    Raises:
        CheckpointError: config.json asks for what is not supported, or tensors are missing or malformed.
    """
    settings = checkpoint.config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != "mxfp4":
        return checkpoint
    place = checkpoint.source.place("config.json")
    unknown = sorted(settings.keys() - _KNOWN)
    if unknown:
        raise CheckpointError(f"{place}: quantization_config has the fields {unknown}, which are not known")
    tensors: dict[str, Any] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(_BLOCKS):
            tensors[name.removesuffix(_BLOCKS)] = _joined(tensor, checkpoint.tensors.get(_scales_of(name)))
        elif not name.endswith(_SCALES):
            tensors[name] = tensor
        elif name.removesuffix(_SCALES) + _BLOCKS not in checkpoint.tensors:
            raise CheckpointError(f"{tensor.file}: tensor {name!r} is there without its {_BLOCKS!r}")
    config = {name: value for name, value in checkpoint.config.items() if name != "quantization_config"}
    return dataclasses.replace(checkpoint, tensors=tensors, config=config)


def _scales_of(blocks: str) -> str:
    return blocks.removesuffix(_BLOCKS) + _SCALES


def _joined(blocks: Tensor, scales: Tensor | None) -> Mxfp4Tensor:
    needed = (*blocks.shape[:3], _BYTES)
    if scales is None:
        raise CheckpointError(f"{blocks.file}: tensor {blocks.name!r} is there without its {_SCALES!r}")
    if blocks.code != "U8" or len(blocks.shape) != 4 or blocks.shape != needed:
        raise CheckpointError(
            f"{blocks.file}: tensor {blocks.name!r} is {blocks.code} of shape {blocks.shape}; needed: U8 (E, N, n, 16)"
        )
    if scales.code != "U8" or scales.shape != blocks.shape[:3]:
        raise CheckpointError(
            f"{scales.file}: tensor {scales.name!r} is {scales.code} of shape {scales.shape}; "
            f"needed: U8 {blocks.shape[:3]}"
        )
    E, N, n, _ = blocks.shape
    return Mxfp4Tensor(
        blocks.name.removesuffix(_BLOCKS), blocks.file, "BF16", (E, 32 * n, N), blocks.data, scales=scales
    )
