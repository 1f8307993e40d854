"""Types of the compiled module (transformer_fast/_core.pyx); called by transformer_fast.functional alone."""

from typing import Any

from numpy import dtype, generic, ndarray

PAGE_UNIT: int
BFLOAT16: dtype

class bfloat16(generic): ...

class OneCall:
    def __init__(self, what: str) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

def readable(x: ndarray) -> bool: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def has_openmp() -> bool: ...
def set_thread_backend(name: str) -> bool: ...
def get_thread_backend() -> str: ...
def thread_backends() -> tuple[str, ...]: ...
def compiler() -> str: ...
def cpu_brand() -> str: ...
def cache_bytes() -> tuple[int, int, int]: ...
def set_isa(name: str | None) -> bool | None: ...
def set_tuning(name: str | None) -> None: ...
def get_isa() -> str: ...
def get_tuning() -> str: ...
def tunings() -> tuple[str, ...]: ...
def available_isas() -> tuple[str, ...]: ...
def emulated_isas() -> tuple[str, ...]: ...
def release_workspace() -> int: ...

class AttentionCall:
    query: ndarray
    key: ndarray
    value: ndarray
    out: ndarray
    q_dtype: int
    kv_dtype: int
    key_scale: ndarray | None
    value_scale: ndarray | None
    cu_seqlens_q: ndarray | None
    cu_seqlens_k: ndarray | None
    longest_query: int
    page_table: ndarray | None
    shared_keys: ndarray | None
    kv_lengths: ndarray | None
    causal_offset: ndarray | None
    left: int
    right: int
    scale: float
    softcap: float
    additive: ndarray | None
    attn_mask: ndarray | None
    relative_bias: ndarray | None
    distance_scores: tuple[ndarray | None, ndarray | None, ndarray, ndarray] | None
    key_ranges: tuple[ndarray, ndarray, ndarray, float] | None
    alibi_slopes: ndarray | None
    sinks: ndarray | None
    lse: ndarray | None
    weights: ndarray | None
    sparse_weights: tuple[tuple[ndarray, ndarray, ndarray, float], ndarray, ndarray] | None
    weights_mean: bool
    def set_operands(self, query: ndarray, key: ndarray, value: ndarray, out: ndarray) -> None: ...
    def run(self, n_threads: int) -> None: ...
    def explain(self, n_threads: int) -> dict[str, Any]: ...

def plain_attention(query: Any, key: Any, value: Any, is_causal: bool, n_threads: int) -> ndarray | None: ...

class PackedWeight:
    isa: str
    format: str
    nbytes: int
    parts: tuple[PackedWeight, ...] | None
    def __init__(
        self,
        blocks: Any,
        number: int,
        format: str,
        for_decode: bool,
        scale: ndarray | None,
        smoothing: ndarray | None,
        n_threads: int,
    ) -> None: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def fits(self) -> bool: ...
    @property
    def scale(self) -> ndarray | None: ...
    def layout(self) -> tuple[int, bool, int, int, int]: ...
    def stored(self) -> tuple[tuple[int, int], bool, int, ndarray]: ...
    def unpack(self) -> ndarray: ...

def plain_linear(x: Any, weight: PackedWeight, bias: Any, activation: int, n_threads: int) -> ndarray | None: ...
def linear(
    x: ndarray,
    weight: PackedWeight,
    bias: ndarray | None,
    activation: int,
    multiply: ndarray | None,
    residual: ndarray | None,
    y: ndarray,
    n_threads: int,
) -> None: ...
def linear_max(
    x: ndarray, weight: PackedWeight, bias: ndarray | None, cu_seqlens: ndarray, y: ndarray, n_threads: int
) -> None: ...
def matmul(a: ndarray, b: ndarray, a_offsets: ndarray, b_offsets: ndarray, y: ndarray, n_threads: int) -> None: ...
def max_sim(
    queries: ndarray,
    cu_queries: ndarray,
    documents: ndarray,
    cu_documents: ndarray,
    pairwise: bool,
    scores: ndarray,
    n_threads: int,
) -> None: ...
def search_products(
    queries: PackedWeight, corpus: ndarray, cosine: bool, scores: ndarray, indices: ndarray, n_threads: int
) -> bool: ...
def search_hamming(queries: ndarray, corpus: ndarray, scores: ndarray, indices: ndarray, n_threads: int) -> None: ...

class EncoderStack:
    def __init__(self, layers: tuple[tuple[Any, ...], ...]) -> None: ...

def encoder(
    x: ndarray,
    cu: ndarray,
    stack: EncoderStack,
    heads: int,
    activation: int,
    eps1: float,
    eps2: float,
    norm_first: bool,
    causal: bool,
    pooled: ndarray | None,
    y: ndarray,
    n_threads: int,
) -> None: ...

class DecoderStack:
    def __init__(
        self,
        layers: tuple[Any, ...],
        places: tuple[tuple[int, int], ...],
        final_norm: tuple[ndarray, ndarray | None] | None,
    ) -> None: ...

def decoder(
    x: ndarray,
    cu: ndarray,
    stack: DecoderStack,
    shape: tuple[int, int, int, int],
    options: tuple[int, bool, bool, bool, bool, float, float],
    rotations: tuple[tuple[ndarray, ndarray], ...],
    caches: tuple[tuple[Any, ...], ...] | None,
    fresh: bool,
    stepwise: bool,
    rows: ndarray | None,
    head: PackedWeight | None,
    head_bias: ndarray | None,
    y: ndarray,
    n_threads: int,
) -> None: ...
def recurrent(
    cell: int,
    reverse: bool,
    x: ndarray,
    input_weights: tuple[PackedWeight, ...],
    weights: tuple[PackedWeight, ...],
    input_bias: ndarray | None,
    bias: ndarray | None,
    projections: tuple[PackedWeight, ...],
    order: ndarray,
    lengths: ndarray,
    h: ndarray,
    c: ndarray | None,
    y: ndarray,
    n_threads: int,
) -> None: ...
def layer_norm(
    x: ndarray,
    residual: ndarray | None,
    weight: ndarray | None,
    bias: ndarray | None,
    eps: float,
    y: ndarray,
    n_threads: int,
) -> None: ...
def rms_norm(
    x: ndarray, residual: ndarray | None, weight: ndarray | None, eps: float, y: ndarray, n_threads: int
) -> None: ...
def rope(x: ndarray, cos: ndarray, sin: ndarray, interleaved: bool, y: ndarray, n_threads: int) -> None: ...
def softmax(x: ndarray, y: ndarray, n_threads: int) -> None: ...
def activate(x: ndarray, y: ndarray, kind: int, n_threads: int) -> None: ...
def first_outside(ids: ndarray, limit: int) -> int: ...
def embedding(ids: ndarray, table: ndarray, y: ndarray, n_threads: int) -> None: ...
def plain_embedding(ids: Any, table: Any) -> ndarray | None: ...
def embedding_sum(
    ids: tuple[ndarray, ...],
    tables: tuple[ndarray, ...],
    weight: ndarray | None,
    bias: ndarray | None,
    eps: float,
    y: ndarray,
    n_threads: int,
) -> None: ...
def copy_heads(x: ndarray, y: ndarray, n_threads: int) -> None: ...
def measure_fma(seconds: float, n_threads: int) -> float: ...
def measure_read(x: ndarray, repeats: int, n_threads: int) -> float: ...
