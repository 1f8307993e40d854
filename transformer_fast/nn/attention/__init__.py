"""Attention blocks; each looks at its projections through strides, and none copies heads.

`MultiheadAttention` (multihead.py) is torch's, option by option. `SelfAttention` (self_attention.py) has what torch's
lacks: grouped heads, a window, rotary and relative positions, a cache. `PackedSelfAttention` (packed.py) takes
sequences without padding, for models. `ScaledDotProductAttention` and `AdditiveAttention` (scores.py) are one score
function each, without heads of their own. masks.py turns torch's masks into options of `functional`. A block with
another projection scheme becomes a file of its own here.
"""

from transformer_fast.nn.attention.multihead import MultiheadAttention
from transformer_fast.nn.attention.packed import PackedSelfAttention
from transformer_fast.nn.attention.scores import AdditiveAttention, ScaledDotProductAttention
from transformer_fast.nn.attention.self_attention import SelfAttention

__all__ = [
    "AdditiveAttention",
    "MultiheadAttention",
    "PackedSelfAttention",
    "ScaledDotProductAttention",
    "SelfAttention",
]
