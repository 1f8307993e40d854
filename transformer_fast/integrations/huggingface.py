"""Attention of this library inside of a torch model of transformers. Called by transformers, once it is registered.

`register_attention` names two functions to transformers: the attention, and what makes its masks; without the second a
padding mask would silently arrive as None. Tensors and arrays share their memory, in both directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from transformer_fast import functional as F
from transformer_fast.functional.bfloat16 import bfloat16_dtype


def register_attention(name: str = "transformer_fast") -> str:
    """Makes `name` an attention that models of transformers can be told to use; returns the name.

    For inference on the CPU, with models whose attention goes through transformers' AttentionInterface. The rest of the
    model stays torch's; whole models without torch are what `transformer_fast.load_model` gives.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
        >>> model = LlamaModel(LlamaConfig(**sizes, num_key_value_heads=1)).eval()
        >>> model.set_attn_implementation(register_attention())
        >>> with torch.no_grad():
        ...     model(torch.tensor([[1, 2, 3]])).last_hidden_state.shape
        torch.Size([1, 3, 16])
    """
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An attention function as transformers calls it: (output (B, Lq, H, Dv), dense; weights (B, H, Lq, Lk) or None).

    query (B, H, Lq, D), key (B, Hkv, Lk, D), value (B, Hkv, Lk, Dv), float32, float16, bfloat16 or float64; key and
    value heads are not repeated. attention_mask (B, 1 or H, Lq, Lk): bool (True = attend) or added. is_causal None is
    module.is_causal; it applies where Lq > 1 and there is no mask (a mask contains the order already). Where it does,
    sliding_window is the number of keys that a query sees, itself included. s_aux (H,): a logit that joins the
    denominator. position_bias (1 or B, H, Lq, Lk): added to the scores. kwargs["output_attentions"] asks for weights.

    Raises ValueError for dropout, a device other than the CPU or a paged cache, RuntimeError where torch would want a
    gradient. Source: transformers' AttentionInterface and its sdpa_attention_forward.

    Example:
        >>> query, key = torch.ones(1, 4, 3, 8), torch.ones(1, 2, 5, 8)
        >>> attention_forward(torch.nn.Module(), query, key, key, None, is_causal=False)[0].shape
        torch.Size([1, 3, 4, 8])
    """
    if kwargs.get("cache") is not None:
        raise ValueError("cache is given; needed: None (continuous batching is not supported)")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value)):
        raise RuntimeError("query, key or value wants a gradient, which there is none of; needed: torch.no_grad()")
    if query.device.type != "cpu":
        raise ValueError(f"query is on the device {query.device}; needed: the CPU")
    B, H, Lq, _ = query.shape
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    is_causal = bool(is_causal) and Lq > 1 and attention_mask is None
    context = torch.empty(max(B, len(key)), Lq, H, value.shape[-1], dtype=query.dtype)
    weights = "heads" if kwargs.get("output_attentions") else False
    result = F.scaled_dot_product_attention(
        *map(_array, (query, key, value)),
        _mask(attention_mask, position_bias),
        dropout_p=dropout,
        is_causal=is_causal,
        scale=scaling,
        enable_gqa=key.shape[1] != H,
        window=(sliding_window - 1, 0) if sliding_window is not None and is_causal else (-1, -1),
        softcap=softcap or 0.0,
        sinks=None if s_aux is None else _array(s_aux),
        return_weights=weights,
        out=_array(context).swapaxes(1, 2),
    )
    return context, _tensor(result[1]) if weights else None


def _mask(mask: torch.Tensor | None, bias: torch.Tensor | None) -> np.ndarray | None:
    """Both in one."""
    if bias is None:
        return None if mask is None else _array(mask)
    if mask is None:
        return _array(bias)
    if mask.dtype == torch.bool:
        return _array(torch.where(mask, bias, -torch.inf))
    return _array(mask + bias)


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory, as an array."""
    tensor = tensor.detach()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(bfloat16_dtype())


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The array's memory, as a tensor."""
    if array.dtype.name != "bfloat16":
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
