"""Tensors in blocks, as GGUF files have them, or in groups: kept as they are where products can take them so.

`PretrainedModel.from_checkpoint` calls `with_blocks`; no family knows of it. Formats without kernels (Q2_K, Q3_K) and
tensors that a parameter needs transposed or reshaped are expanded to float32, as `Tensor.array` does it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.source import Tensor
from transformer_fast.functional.block_weight import BLOCK_FORMATS, BlockWeight
from transformer_fast.models.common.quantised_groups import GroupTensor


@dataclasses.dataclass(frozen=True)
class BlockWeightTensor(Tensor):
    """A matrix in blocks that the engine multiplies by."""

    stored: Any = None

    def array(self) -> np.ndarray:
        return self.stored.array()

    def floating(self) -> Any:
        """The weight, a BlockWeight."""
        return BlockWeight(self.code, self.stored.blocks())


def with_blocks(checkpoint: Checkpoint, sources: Mapping[str, Any], takes_blocks: Collection[str]) -> Checkpoint:
    """The checkpoint with `BlockWeightTensor`s for the matrices of which all parameters are taken as they are, and
    `GroupTensor`s for no others.

    sources: parameter -> its `Source`; takes_blocks: the parameters that may be blocks.
    """
    expanded = {
        name
        for ours, source in sources.items()
        if ours not in takes_blocks or source.transpose or source.shape is not None
        for name in source.names
    }
    used = {name for source in sources.values() for name in source.names} - expanded
    tensors = {name: _taken(tensor, name in used) for name, tensor in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=tensors)


def _taken(tensor: Tensor, as_it_is: bool) -> Tensor:
    if as_it_is and tensor.code in BLOCK_FORMATS and hasattr(tensor, "blocks") and len(tensor.shape) == 2:
        return _as_blocks(tensor)
    return tensor if as_it_is or not isinstance(tensor, GroupTensor) else tensor.expanded()


def _as_blocks(tensor: Tensor) -> BlockWeightTensor:
    fields = {field.name: getattr(tensor, field.name) for field in dataclasses.fields(Tensor)}
    return BlockWeightTensor(**fields, stored=tensor)
