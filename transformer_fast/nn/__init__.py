"""Small building blocks with torch's names, on NumPy arrays, for inference: models are made of them.

Called by `models` and users. A block is one class in one file of this folder, listed below; it holds its parameters
under torch's state-dict names and calls `transformer_fast.functional` for everything that it computes. A block that
needs more than about eight options becomes two blocks.
"""

from transformer_fast.nn.activation import GELU, Dropout, Identity, QuickGELU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from transformer_fast.nn.attention import (
    AdditiveAttention,
    MultiheadAttention,
    PackedSelfAttention,
    ScaledDotProductAttention,
    SelfAttention,
)
from transformer_fast.nn.cache import KeyValueCache
from transformer_fast.nn.container import ModuleDict, Sequential
from transformer_fast.nn.convolution import Conv1d, Conv2d, PatchEmbedding
from transformer_fast.nn.embedding import Embedding
from transformer_fast.nn.feed_forward import FeedForward
from transformer_fast.nn.fused import FusedLinear
from transformer_fast.nn.image import ImageSelfAttention, image_to_vectors, vectors_to_image
from transformer_fast.nn.init import manual_seed
from transformer_fast.nn.labelling import Span, TokenClassifier, aggregate_words, decode_bio
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module, ModuleList
from transformer_fast.nn.norm import LayerNorm, RMSNorm
from transformer_fast.nn.packed import Collector, PackedEncoder
from transformer_fast.nn.position import (
    LearnedPositionalEmbedding,
    RelativePositionBias,
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
    SinusoidalPositionalEncoding2d,
    alibi_slopes,
    relative_position_bucket,
)
from transformer_fast.nn.recurrent import GRU, LSTM
from transformer_fast.nn.seq2seq import RecurrentSeq2Seq, TransformerGenerator
from transformer_fast.nn.transformer import Transformer, TransformerEncoder, TransformerEncoderLayer
from transformer_fast.nn.transformer_decoder import TransformerDecoder, TransformerDecoderLayer

__all__ = [
    "AdditiveAttention",
    "Collector",
    "Conv1d",
    "Conv2d",
    "Dropout",
    "Embedding",
    "FeedForward",
    "FusedLinear",
    "GELU",
    "GRU",
    "Identity",
    "ImageSelfAttention",
    "KeyValueCache",
    "LSTM",
    "LayerNorm",
    "LearnedPositionalEmbedding",
    "Linear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "PackedEncoder",
    "PackedSelfAttention",
    "PatchEmbedding",
    "QuickGELU",
    "RMSNorm",
    "ReLU",
    "RecurrentSeq2Seq",
    "RelativePositionBias",
    "RotaryEmbedding",
    "ScaledDotProductAttention",
    "SelfAttention",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositionalEncoding",
    "SinusoidalPositionalEncoding2d",
    "Softmax",
    "Span",
    "Tanh",
    "TokenClassifier",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TransformerGenerator",
    "aggregate_words",
    "alibi_slopes",
    "decode_bio",
    "image_to_vectors",
    "manual_seed",
    "relative_position_bucket",
    "vectors_to_image",
]
