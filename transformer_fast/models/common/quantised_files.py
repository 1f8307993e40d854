"""What `PretrainedModel.save_pretrained` writes of weights in integers: the inverse of `quantised.read_integers`.

compressed-tensors' "int-quantized" form, which transformers, vLLM and this library read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.integer_weight import as_floats
from transformer_fast.functional.linear import INTEGER_FORMATS
from transformer_fast.functional.stored_weight import StoredWeight


def as_integers(weight: np.ndarray | StoredWeight, format: str) -> F.IntegerWeight:
    """The integers that `pack_weight` makes of a weight (N, K), without smoothing; those that are there already.

    Raises:
        ValueError: the weight holds NaN or infinity.

    Example:
        >>> as_integers(np.array([[1, -0.5]], np.float32), "int8_a16").integers
        array([[127, -64]], dtype=int8)
    """
    if isinstance(weight, F.IntegerWeight):
        return weight
    packed = F.pack_weight(as_floats(weight), format=format)
    if not np.isfinite(packed.scale).all():
        raise ValueError("holds NaN or infinity; needed for integers: finite numbers")
    # A product of a whole number below 2^24 and a float, divided by it again, is next to that number.
    return F.IntegerWeight(np.rint(packed.unpack() / packed.scale[:, None]).astype(np.int8), packed.scale)


def quantization_config(formats: Iterable[str], ignored: Iterable[str]) -> dict[str, Any]:
    """What config.json says of the integers. formats: of the weights; ignored: layers whose weights are floats.

    Raises:
        ValueError: there are several formats: a file can say one thing of the activations.
    """
    found = set(formats)
    if len(found) > 1:
        raise ValueError(f"compute_type asks for {' and '.join(sorted(found))} in one file; needed: one of them")
    scheme = {"num_bits": 8, "type": "int", "group_size": None, "block_structure": None, "actorder": None}
    weights = scheme | {"symmetric": True, "strategy": "channel", "dynamic": False}
    by_token = scheme | {"symmetric": False, "strategy": "token", "dynamic": True}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": by_token if found == {"int8"} else None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": sorted(ignored),
        "kv_cache_scheme": None,
    }


def integer_parameters(formats: Mapping[str, str], packed: set[str], tensors: Mapping[str, Any]) -> dict[str, str]:
    """Parameter -> format, of those that are written as integers.

    formats: of all parameters. packed: the parameters that only products read. tensors: parameter -> the `Source` that
    says what it is made of. A tensor that is read as a table, too (a tied output layer), stays as it is.

    Raises:
        ValueError: a weight that formats name is stored in a form that has no integers, or there is none to be written.
    """
    asked = {ours: format for ours, format in formats.items() if ours in packed and format in INTEGER_FORMATS}
    tables = {name for ours, source in tensors.items() if ours not in packed for name in source.names}
    found = {ours: format for ours, format in asked.items() if not tables.intersection(tensors[ours].names)}
    for ours in found:
        source = tensors[ours]
        if source.transpose or source.shape or source.copies or not all(n.endswith(".weight") for n in source.names):
            raise ValueError(
                f"compute_type is {found[ours]!r}, but {', '.join(source.names)} is stored transposed or under several "
                "names, of which the form with integers knows nothing; needed for it: float32"
            )
    if any(format in INTEGER_FORMATS for format in formats.values()) and not found:
        raise ValueError("compute_type asks for integers, but there is no weight that would be written so")
    return found
