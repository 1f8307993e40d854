"""Transformer inference on the CPU: the public names, and nothing else.

Everybody who writes `import transformer_fast` comes through here, so the import stays light: NumPy, the compiled module
and `functional` are loaded at once; whatever reads checkpoints or tokenises (`SentenceEncoder` and its relatives,
`load_model`, `load_tokenizer`, `nn`, `models`) is loaded when it is first used. A new public op gets a line in the
import and in `__all__`; a new public name that pulls in more than NumPy gets a line in `_LAZY`.
"""

from __future__ import annotations

__version__ = "0.2.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import_module(f"{__name__}._core")
except ModuleNotFoundError as error:
    if error.name != f"{__name__}._core":
        raise
    raise ImportError(
        f"{__path__[0]} holds sources without the compiled module: a checkout hides the installed package from a "
        "Python that is started in it; needed: pip install, and another current folder"
    ) from None

from transformer_fast import functional
from transformer_fast.functional import (
    additive_attention,
    available_isas,
    concat_heads,
    explain_attention,
    gelu,
    get_isa,
    get_num_threads,
    gru,
    layer_norm,
    linear,
    linear_max,
    lstm,
    matmul,
    max_sim,
    merge_attention,
    pack_weight,
    release_workspace,
    rms_norm,
    rotary_embedding,
    scaled_dot_product_attention,
    set_isa,
    set_num_threads,
    show_config,
    softmax,
    split_heads,
    varlen_attention,
)

if TYPE_CHECKING:
    from transformer_fast import masks, models, nn, util, visualize
    from transformer_fast.generation import load_tokenizer
    from transformer_fast.models import load_model
    from transformer_fast.pipelines import BGEM3Encoder, CrossEncoder, MultiVectorEncoder, SentenceEncoder

__all__ = [
    "BGEM3Encoder",
    "CrossEncoder",
    "MultiVectorEncoder",
    "SentenceEncoder",
    "SparseEncoder",
    "__version__",
    "additive_attention",
    "available_isas",
    "concat_heads",
    "explain_attention",
    "functional",
    "gelu",
    "get_isa",
    "get_num_threads",
    "gru",
    "layer_norm",
    "linear",
    "linear_max",
    "load_model",
    "load_tokenizer",
    "lstm",
    "masks",
    "matmul",
    "max_sim",
    "merge_attention",
    "models",
    "nn",
    "pack_weight",
    "release_workspace",
    "rms_norm",
    "rotary_embedding",
    "scaled_dot_product_attention",
    "set_isa",
    "set_num_threads",
    "show_config",
    "softmax",
    "split_heads",
    "util",
    "varlen_attention",
    "visualize",
]

# Public name -> (module, attribute; None for the module itself).
_LAZY = {
    "BGEM3Encoder": ("transformer_fast.pipelines", "BGEM3Encoder"),
    "CrossEncoder": ("transformer_fast.pipelines", "CrossEncoder"),
    "MultiVectorEncoder": ("transformer_fast.pipelines", "MultiVectorEncoder"),
    "SparseEncoder": ("transformer_fast.pipelines", "SparseEncoder"),
    "SentenceEncoder": ("transformer_fast.pipelines", "SentenceEncoder"),
    "load_model": ("transformer_fast.models", "load_model"),
    "load_tokenizer": ("transformer_fast.generation", "load_tokenizer"),
    "masks": ("transformer_fast.masks", None),
    "models": ("transformer_fast.models", None),
    "nn": ("transformer_fast.nn", None),
    "util": ("transformer_fast.util", None),
    "visualize": ("transformer_fast.visualize", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
