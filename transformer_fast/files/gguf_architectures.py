"""The architectures of GGUF files that a family of `models` can run: names of settings and tensors, and what differs.

`gguf_names` translates a file by `ARCHITECTURES`. A new architecture is an entry there; what its names alone do not say
(a default of llama.cpp's that config.json must have, a value that two settings make) is a function beside it that
completes config.json.

Names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's gguf-py/gguf/constants.py; what values
are stored: llama.cpp's convert_hf_to_gguf.py; defaults: the hyperparameters in llama.cpp's src/llama-model.cpp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf_settings import Settings

# Frequencies of rotary positions divided by a factor each: Llama 3.1 and later.
ROPE_FACTORS = "rope_freqs.weight"
# BERT's table of types; a file of DistilBERT has none.
TOKEN_TYPES = "token_types.weight"

# pooling_type -> the name that sentence-transformers has for it; 0: none. 4 scores pairs of texts, by a head that the
# families of these architectures do not have.
POOLING = {0: None, 1: "mean", 2: "cls", 3: "lasttoken"}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a file of one architecture is as a folder.

    model_type, model_class: of config.json. fields: keys after the architecture's name -> fields of config.json.
    needed: keys that must be there. checked: further keys that `complete` reads. complete: what config.json needs
    besides.
    tensors, layer: names of tensors, without their end (or with it) -> Hugging Face's; layers: the prefix of those of a
    layer. experts: of tensors that stack a matrix for each expert -> Hugging Face's, {} for the expert's number.
    turned: queries and keys of a head have the two numbers that rotary positions turn side by side; Hugging Face's have
    the first half of the head's numbers before the second. offset: weights of norms are stored with 1 added, which the
    family adds itself. transposed: matrices of layers that Hugging Face stores the other way round.
    """

    model_type: str
    model_class: str
    fields: Mapping[str, str]
    needed: tuple[str, ...]
    checked: tuple[str, ...]
    complete: Callable[[Settings, dict[str, Any]], None]
    tensors: Mapping[str, str]
    layer: Mapping[str, str]
    layers: str = "model.layers."
    experts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    turned: bool = False
    offset: bool = False
    transposed: tuple[str, ...] = ()


# ----------------------------------------------------------------------------------------------------------------------
# Decoders of Llama's kind

_FIELDS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}
_SIZES = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
_NEEDED = (*_SIZES, "attention.layer_norm_rms_epsilon")
_OPTIONAL = ("attention.head_count_kv", "attention.key_length", "rope.freq_base")
_SCALING = ("type", "factor", "original_context_length", "attn_factor", "finetuned")
_SCALING += ("yarn_beta_fast", "yarn_beta_slow", "yarn_ext_factor")
_COMMON = ("vocab_size", "pooling_type")  # what any architecture may have
_CHECKED = (*_COMMON, "attention.value_length", "rope.dimension_count", *(f"rope.scaling.{k}" for k in _SCALING))

_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _decoder(own: Settings, config: dict[str, Any]) -> None:
    """Sizes that the tensors say, and rotary positions."""
    _vocabulary(own, config)
    heads = config["num_attention_heads"]
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("rope_theta", 10000.0)
    width = config.setdefault("head_dim", own.get("rope.dimension_count") or config["hidden_size"] // max(heads, 1))
    own.same("attention.value_length", width)
    own.same("rope.dimension_count", width)
    scaling = _scaling(own, config)
    if scaling:
        config["rope_scaling"] = scaling


def _vocabulary(own: Settings, config: dict[str, Any]) -> None:
    table = own.file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise CheckpointError(f"{own.file.path}: there is no tensor 'token_embd.weight' with two axes; needed: one")
    config["vocab_size"] = table.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in own.file.tensors
    own.same("vocab_size", config["vocab_size"])
    if own.get("pooling_type") not in (None, *POOLING):
        raise CheckpointError(
            f"{own.file.path}: pooling_type is {own.get('pooling_type')}; supported: {', '.join(map(str, POOLING))}"
        )


def _scaling(own: Settings, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """rope_scaling of config.json."""
    own.same("rope.scaling.attn_factor", 1)  # ggml multiplies YaRN's own factor by it; attention_factor replaces that
    place, kind, factors = own.file.path, own.text("rope.scaling.type"), own.file.tensors.get(ROPE_FACTORS)
    if factors is not None:
        if kind not in (None, "none"):
            raise CheckpointError(f"{place}: has {ROPE_FACTORS!r} and rope.scaling.type {kind!r}; needed: one")
        half = config["head_dim"] // 2
        if factors.shape != (half,):
            raise CheckpointError(f"{place}: tensor {ROPE_FACTORS!r} has shape {factors.shape}; needed: {(half,)}")
        each = [float(factor) for factor in factors.floating()]
        return {
            "rope_type": "longrope",
            "short_factor": each,
            "long_factor": each,
            "attention_factor": 1.0,
            "original_max_position_embeddings": config["max_position_embeddings"],
        }
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise CheckpointError(f"{place}: rope.scaling.type is {kind!r}; supported: none, linear, yarn")
    found = {"rope_type": kind, "factor": own.get("rope.scaling.factor")}
    if kind == "yarn":
        own.same("rope.scaling.yarn_ext_factor", 1)
        found["original_max_position_embeddings"] = own.get("rope.scaling.original_context_length")
        found |= {field: own.get(f"rope.scaling.yarn_{field}") for field in ("beta_fast", "beta_slow")}
    return {key: value for key, value in found.items() if value is not None}


# Mixtral's tensors; Llama's files have none of them.
_MIXTRAL_LAYER = _LAYER | {"ffn_gate_inp": "block_sparse_moe.gate"}
_MIXTRAL_EXPERTS = {
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}


def _llama(own: Settings, config: dict[str, Any]) -> None:
    _decoder(own, config)
    if "blk.0.attn_q.bias" in own.file.tensors:
        config["attention_bias"] = True
    if own.get("attention.sliding_window"):
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        config["sliding_window"] = own.get("attention.sliding_window")
    if own.get("expert_count"):
        config |= {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
        _experts(own, config)
    else:
        own.same("expert_used_count", 0)


# ----------------------------------------------------------------------------------------------------------------------
# Mixtures of experts

_EXPERTS = {
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
_EXPERT_COUNTS = ("expert_count", "expert_used_count")
_QWEN3MOE_LAYER = _LAYER | {"ffn_gate_inp": "mlp.gate"}
_GPT_OSS_LAYER = {name: theirs for name, theirs in _LAYER.items() if name != "ffn_norm"}
_GPT_OSS_LAYER |= {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.router",
    "attn_sinks.weight": "self_attn.sinks",
}
_GPT_OSS_FIELDS = {key: field for key, field in _FIELDS.items() if field != "intermediate_size"}
_GPT_OSS_FIELDS |= {
    "expert_feed_forward_length": "intermediate_size",
    "attention.sliding_window": "sliding_window",
}


def _experts(own: Settings, config: dict[str, Any]) -> None:
    """How many experts there are, as many as the tensors hold, and how many a token is sent to."""
    count, used = (own.required(key) for key in _EXPERT_COUNTS)
    held = {t.shape[0] for name, t in own.file.tensors.items() if "_exps." in name and t.shape}
    if held != {count}:
        told = f"hold {', '.join(map(str, sorted(held)))}" if held else "hold none"
        raise CheckpointError(f"{own.file.path}: expert_count is {count}, and tensors of experts {told}")
    config["num_local_experts"], config["num_experts_per_tok"] = count, used


def _qwen3moe(own: Settings, config: dict[str, Any]) -> None:
    """llama.cpp has experts in every layer, and weights of the chosen ones that sum to 1."""
    _decoder(own, config)
    _experts(own, config)
    if own.get("expert_feed_forward_length") is None:
        config["moe_intermediate_size"] = config["intermediate_size"] // max(config["num_experts_per_tok"], 1)
    config["norm_topk_prob"] = True


def _gpt_oss(own: Settings, config: dict[str, Any]) -> None:
    _decoder(own, config)
    _experts(own, config)
    own.same("feed_forward_length", config["intermediate_size"])
    pattern = own.by_layer("attention.sliding_window_pattern", config["num_hidden_layers"])
    if isinstance(pattern, list):
        config["layer_types"] = ["sliding_attention" if window else "full_attention" for window in pattern]
    else:  # every second layer, the first among them, has the window
        own.same("attention.sliding_window_pattern", 2)
    own.same("rope.freq_base_swa", config["rope_theta"])
    if "rope_scaling" not in config:
        config["rope_scaling"] = {"rope_type": "default"}  # a folder without any has YaRN
    elif config["rope_scaling"]["rope_type"] == "yarn":
        config["rope_scaling"]["truncate"] = False  # as the model was trained; files do not say it


# ----------------------------------------------------------------------------------------------------------------------
# Gemma

_GEMMA_FIELDS = _FIELDS | {
    "attention.sliding_window": "sliding_window",
    "final_logit_softcapping": "final_logit_softcapping",
}
_GEMMA_LAYER = _LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# The layers of the size of Gemma 2 and of Gemma 3 (27B) whose scores are scaled by embedding_length / head_count, which
# files do not say; all others by the width of a head.
_GEMMA_27B = {"gemma2": 46, "gemma3_text": 62}


def _gemma(own: Settings, config: dict[str, Any]) -> None:
    _decoder(own, config)
    if config.get("sliding_window") == 0:
        config["sliding_window"] = None
    large = config["num_hidden_layers"] == _GEMMA_27B[config["model_type"]]
    config["query_pre_attn_scalar"] = (
        config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
    )


def _gemma3(own: Settings, config: dict[str, Any]) -> None:
    _gemma(own, config)
    count = config["num_hidden_layers"]
    config["rope_local_base_freq"] = own.get("rope.freq_base_swa") or 10000.0
    pattern = own.by_layer("attention.sliding_window_pattern", count)
    if not config.get("sliding_window"):
        config["sliding_window"], pattern = None, [False] * count
    if isinstance(pattern, list):
        config["layer_types"] = ["sliding_attention" if window else "full_attention" for window in pattern]
    else:
        config["sliding_window_pattern"] = 6 if pattern is None else pattern


# ----------------------------------------------------------------------------------------------------------------------
# Phi-3 and StarCoder2

_PHI3_LAYER = {
    name: theirs for name, theirs in _LAYER.items() if name not in ("attn_q", "attn_k", "attn_v", "ffn_gate")
}
_PHI3_LAYER |= {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_PHI3_CHECKED = tuple(key for key in _CHECKED if key != "rope.scaling.factor")  # factors are tensors here
# Frequencies for texts up to the original context, and for longer ones.
LONG_ROPE = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}


def _phi3(own: Settings, config: dict[str, Any]) -> None:
    _vocabulary(own, config)
    heads = config["num_attention_heads"]
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("rope_theta", 10000.0)
    width = config["hidden_size"] // max(heads, 1)
    own.same("attention.key_length", width)
    own.same("attention.value_length", width)
    rotated = own.get("rope.dimension_count") or width
    if not 0 < rotated <= width or rotated % 2:
        raise CheckpointError(
            f"{own.file.path}: rope.dimension_count is {rotated}; needed: an even number up to {width}, a head's width"
        )
    config["partial_rotary_factor"] = rotated / width
    config["sliding_window"] = own.get("attention.sliding_window") or None
    original = own.get("rope.scaling.original_context_length") or config["max_position_embeddings"]
    config["original_max_position_embeddings"] = original
    kind = own.text("rope.scaling.type")
    if kind not in (None, "none", "longrope"):
        raise CheckpointError(f"{own.file.path}: rope.scaling.type is {kind!r}; supported: none, longrope")
    tensors = {field: own.file.tensors.get(name) for field, name in LONG_ROPE.items()}
    if all(tensor is None for tensor in tensors.values()):
        own.same("rope.scaling.attn_factor", 1)
        return
    scaling: dict[str, Any] = {"rope_type": "longrope"}
    for field, tensor in tensors.items():
        if tensor is None or tensor.shape != (rotated // 2,):
            told = "missing" if tensor is None else f"of shape {tensor.shape}"
            raise CheckpointError(
                f"{own.file.path}: tensor {LONG_ROPE[field]!r} is {told}; needed: {(rotated // 2,)}, a factor for each "
                "frequency"
            )
        scaling[field] = [float(factor) for factor in tensor.floating()]
    if (factor := own.get("rope.scaling.attn_factor")) is not None:
        scaling["attention_factor"] = factor
    config["rope_scaling"] = scaling


_STARCODER2_FIELDS = {key: field for key, field in _FIELDS.items() if field != "rms_norm_eps"}
_STARCODER2_FIELDS |= {
    "attention.layer_norm_epsilon": "norm_epsilon",
    "attention.sliding_window": "sliding_window",
}
_STARCODER2_LAYER = {name: theirs for name, theirs in _LAYER.items() if name != "ffn_gate"}
_STARCODER2_LAYER |= {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}


def _starcoder2(own: Settings, config: dict[str, Any]) -> None:
    _decoder(own, config)
    config["use_bias"] = "blk.0.attn_q.bias" in own.file.tensors
    config["sliding_window"] = config.get("sliding_window") or None


# ----------------------------------------------------------------------------------------------------------------------
# GPT-2

_GPT2_FIELDS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_GPT2_TENSORS = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GPT2_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


def _gpt2(own: Settings, config: dict[str, Any]) -> None:
    _vocabulary(own, config)
    own.same("attention.head_count_kv", config["n_head"])


# ----------------------------------------------------------------------------------------------------------------------
# BERT

_BERT_FIELDS = {key: _FIELDS[key] for key in _SIZES} | {"attention.layer_norm_epsilon": "layer_norm_eps"}
_BERT_TENSORS = {
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
}
_BERT_LAYER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


_NOMIC_FIELDS = _BERT_FIELDS | {"rope.freq_base": "rope_theta"}
_NOMIC_TENSORS = {
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "emb_ln",
}
_NOMIC_LAYER = {
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.out_proj",
    "attn_output_norm": "norm1",
    "ffn_up": "mlp.fc11",
    "ffn_gate": "mlp.fc12",
    "ffn_down": "mlp.fc2",
    "layer_output_norm": "norm2",
}
_WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")  # all of a head


def _bert(own: Settings, config: dict[str, Any]) -> None:
    """Also RoBERTa, of whose positions files leave out those that no token has, and DistilBERT, without types."""
    _vocabulary(own, config)
    own.same("attention.causal", False)
    own.same("attention.head_count_kv", config["num_attention_heads"])
    types = own.file.tensors.get(TOKEN_TYPES)
    if types is not None and len(types.shape) != 2:
        raise CheckpointError(f"{own.file.path}: tensor {TOKEN_TYPES!r} has shape {types.shape}; needed: two axes")
    config["type_vocab_size"] = 1 if types is None else types.shape[0]
    del config["tie_word_embeddings"]


def _nomic(own: Settings, config: dict[str, Any]) -> None:
    _bert(own, config)
    for key in _WIDTHS:
        own.same(key, config["hidden_size"] // max(config["num_attention_heads"], 1))
    if own.text("rope.scaling.type") not in (None, "none"):
        raise CheckpointError(f"{own.file.path}: rope.scaling.type is {own.text('rope.scaling.type')!r}; needed: none")


# ----------------------------------------------------------------------------------------------------------------------


def _like_llama(model_type: str, model_class: str, **differing: Any) -> Architecture:
    usual: dict[str, Any] = {"fields": _FIELDS, "needed": _NEEDED, "checked": _CHECKED, "complete": _decoder}
    return Architecture(model_type, model_class, **(usual | {"tensors": _TENSORS, "layer": _LAYER} | differing))


ARCHITECTURES = {
    "llama": _like_llama(
        "llama",
        "LlamaForCausalLM",
        checked=(*_CHECKED, "attention.sliding_window", *_EXPERT_COUNTS),
        complete=_llama,
        layer=_MIXTRAL_LAYER,
        experts=_MIXTRAL_EXPERTS,
        turned=True,
    ),
    "qwen2": _like_llama("qwen2", "Qwen2ForCausalLM"),
    "qwen3": _like_llama("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": _like_llama(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        fields=_FIELDS | {"expert_feed_forward_length": "moe_intermediate_size"},
        checked=(*_CHECKED, *_EXPERT_COUNTS),
        complete=_qwen3moe,
        layer=_QWEN3MOE_LAYER,
        experts=_EXPERTS,
    ),
    "gpt-oss": _like_llama(
        "gpt_oss",
        "GptOssForCausalLM",
        fields=_GPT_OSS_FIELDS,
        needed=tuple(key for key in _GPT_OSS_FIELDS if key not in _OPTIONAL),
        checked=(*_CHECKED, *_EXPERT_COUNTS, "feed_forward_length", "attention.sliding_window_pattern")
        + ("rope.freq_base_swa",),
        complete=_gpt_oss,
        layer=_GPT_OSS_LAYER,
        experts=_EXPERTS,
    ),
    "gemma2": _like_llama(
        "gemma2",
        "Gemma2ForCausalLM",
        fields=_GEMMA_FIELDS | {"attn_logit_softcapping": "attn_logit_softcapping"},
        complete=_gemma,
        layer=_GEMMA_LAYER,
        offset=True,
    ),
    "gemma3": _like_llama(
        "gemma3_text",
        "Gemma3ForCausalLM",
        fields=_GEMMA_FIELDS,
        checked=(*_CHECKED, "rope.freq_base_swa", "attention.sliding_window_pattern"),
        complete=_gemma3,
        layer=_GEMMA_LAYER,
        offset=True,
    ),
    "phi3": _like_llama(
        "phi3",
        "Phi3ForCausalLM",
        fields={key: field for key, field in _FIELDS.items() if field != "head_dim"},
        checked=(*_PHI3_CHECKED, "attention.key_length", "attention.sliding_window"),
        complete=_phi3,
        layer=_PHI3_LAYER,
    ),
    "starcoder2": _like_llama(
        "starcoder2",
        "Starcoder2ForCausalLM",
        fields=_STARCODER2_FIELDS,
        needed=(*_SIZES, "attention.layer_norm_epsilon"),
        complete=_starcoder2,
        layer=_STARCODER2_LAYER,
    ),
    "gpt2": Architecture(
        "gpt2",
        "GPT2LMHeadModel",
        _GPT2_FIELDS,
        (*_SIZES, "attention.layer_norm_epsilon"),
        (*_COMMON, "attention.head_count_kv"),
        _gpt2,
        _GPT2_TENSORS,
        _GPT2_LAYER,
        layers="transformer.h.",
        transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
    "bert": Architecture(
        "bert",
        "BertModel",
        _BERT_FIELDS,
        (*_SIZES, "attention.layer_norm_epsilon"),
        (*_COMMON, "attention.head_count_kv", "attention.causal"),
        _bert,
        _BERT_TENSORS,
        _BERT_LAYER,
        layers="encoder.layer.",
    ),
    "nomic-bert": Architecture(
        "nomic_bert",
        "NomicBertModel",
        _NOMIC_FIELDS,
        tuple(_NOMIC_FIELDS),
        (*_COMMON, *_WIDTHS, "attention.head_count_kv", "attention.causal", "rope.scaling.type"),
        _nomic,
        _NOMIC_TENSORS,
        _NOMIC_LAYER,
        layers="encoder.layers.",
    ),
}
