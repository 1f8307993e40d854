"""What is done with embeddings: similarities, search, mining, communities, quantisation; as sentence-transformers.util.

Users call it, and `pipelines` do. Arrays in, arrays and lists out; no model is needed. `similarity` has the measures,
`sparse` those of scipy.sparse arrays, `multi_vectors` those of texts that have a vector a token. `search` has what
looks through many vectors without ever holding all scores, `quantization` the smaller types and `quantized_search` the
search among them. A new function goes into the file of its kind and is named below.

Source: sentence_transformers.util of sentence-transformers 6.
"""

from __future__ import annotations

from transformer_fast.util.multi_vectors import (
    MULTI_VECTOR_SIMILARITIES,
    maxsim,
    maxsim_pairwise,
    mean_maxsim,
    mean_maxsim_pairwise,
    multi_vector_similarity,
)
from transformer_fast.util.quantization import PRECISIONS, quantize_embeddings
from transformer_fast.util.quantized_search import semantic_search_quantized
from transformer_fast.util.search import (
    community_detection,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    semantic_search,
)
from transformer_fast.util.similarity import (
    SIMILARITIES,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    normalize_embeddings,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    pairwise_similarity,
    score_function,
    similarity,
    truncate_embeddings,
)

__all__ = [
    "MULTI_VECTOR_SIMILARITIES",
    "PRECISIONS",
    "SIMILARITIES",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "maxsim",
    "maxsim_pairwise",
    "mean_maxsim",
    "mean_maxsim_pairwise",
    "multi_vector_similarity",
    "normalize_embeddings",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "pairwise_similarity",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "quantize_embeddings",
    "score_function",
    "semantic_search",
    "semantic_search_quantized",
    "similarity",
    "truncate_embeddings",
]
