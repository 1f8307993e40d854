"""The ops of the library: NumPy arrays in, NumPy arrays out.

Called by users and by transformer_fast.nn. Here stand checks, defaults and docstrings; what is computed stands in
csrc/, and transformer_fast.reference says the same in plain NumPy. One file a family:
attention, paged (attention over pages), linear, encoder, decoder, recurrent, rows (norm, softmax, activations), rotary,
copies (embedding, heads), bfloat16 (its NumPy type), search (the best of many vectors), late_interaction (max_sim),
settings (threads, instruction set, the machine); arrays.py is what their checks share. A new op goes into its family's
file and is named below.
"""

from __future__ import annotations

from transformer_fast.functional.attention import (
    additive_attention,
    explain_attention,
    merge_attention,
    scaled_dot_product_attention,
    varlen_attention,
)
from transformer_fast.functional.bfloat16 import bfloat16_dtype
from transformer_fast.functional.block_weight import BlockWeight
from transformer_fast.functional.copies import concat_heads, embedding, embedding_sum, split_heads
from transformer_fast.functional.decoder import CacheArrays, Decoder, DecoderLayer
from transformer_fast.functional.distance_scores import DistanceScores
from transformer_fast.functional.encoder import Encoder, EncoderLayer
from transformer_fast.functional.integer_weight import IntegerWeight
from transformer_fast.functional.key_ranges import KeyRanges
from transformer_fast.functional.late_interaction import max_sim
from transformer_fast.functional.linear import PackedWeight, linear, linear_max, matmul, pack_weight
from transformer_fast.functional.paged import paged_attention
from transformer_fast.functional.recurrent import gru, lstm
from transformer_fast.functional.rotary import rotary_embedding
from transformer_fast.functional.rows import gelu, layer_norm, quick_gelu, relu, rms_norm, silu, softmax, tanh
from transformer_fast.functional.search import top_k_hamming, top_k_products
from transformer_fast.functional.settings import (
    available_isas,
    get_isa,
    get_num_threads,
    measure_fma_peak,
    measure_streaming_read,
    release_workspace,
    set_isa,
    set_num_threads,
    show_config,
)

__all__ = [
    "BlockWeight",
    "CacheArrays",
    "Decoder",
    "DecoderLayer",
    "DistanceScores",
    "Encoder",
    "EncoderLayer",
    "IntegerWeight",
    "KeyRanges",
    "PackedWeight",
    "additive_attention",
    "available_isas",
    "bfloat16_dtype",
    "concat_heads",
    "embedding",
    "embedding_sum",
    "explain_attention",
    "gelu",
    "get_isa",
    "get_num_threads",
    "gru",
    "layer_norm",
    "linear",
    "linear_max",
    "lstm",
    "matmul",
    "max_sim",
    "measure_fma_peak",
    "measure_streaming_read",
    "merge_attention",
    "pack_weight",
    "paged_attention",
    "quick_gelu",
    "relu",
    "release_workspace",
    "rms_norm",
    "rotary_embedding",
    "scaled_dot_product_attention",
    "set_isa",
    "set_num_threads",
    "show_config",
    "silu",
    "softmax",
    "split_heads",
    "tanh",
    "top_k_hamming",
    "top_k_products",
    "varlen_attention",
]
