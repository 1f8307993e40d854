"""Types of the compiled module (transformer_fast/_core.pyx); called by transformer_fast.functional alone."""

from typing import Any

from numpy import ndarray

def readable(x: ndarray) -> bool: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def has_openmp() -> bool: ...
def compiler() -> str: ...
def cpu_brand() -> str: ...
def cache_bytes() -> tuple[int, int, int]: ...
def set_isa(name: str | None) -> bool | None: ...
def get_isa() -> str: ...
def available_isas() -> tuple[str, ...]: ...
def release_workspace() -> int: ...
def attention(arguments: tuple[Any, ...], n_threads: int) -> None: ...
def explain_attention(arguments: tuple[Any, ...], n_threads: int) -> dict[str, Any]: ...

class PackedWeight:
    isa: str
    nbytes: int
    def __init__(self, weight: ndarray, few_rows: bool, n_threads: int) -> None: ...
    @property
    def shape(self) -> tuple[int, int]: ...

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
def matmul(a: ndarray, b: ndarray, a_offsets: ndarray, b_offsets: ndarray, y: ndarray, n_threads: int) -> None: ...

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
    rms: bool,
    causal: bool,
    first_rows: bool,
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
def embedding(ids: ndarray, table: ndarray, y: ndarray, n_threads: int) -> None: ...
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
