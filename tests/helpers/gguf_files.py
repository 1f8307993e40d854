"""GGUF files for tests, written by the package gguf: metadata and tensors of small decoders and tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from decoder_cases import draw

NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def name_in_gguf(name: str) -> str:
    stem, end = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{end}"
    _, _, number, part = stem.split(".", 3)
    return f"blk.{number}.{LAYER[part]}.{end}"


def in_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Queries or keys in the order that llama.cpp keeps Llama's in: the halves of a head interleaved."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def tensors_of_llama(config: dict) -> dict[str, np.ndarray]:
    """Tensors of a Llama of any size, by Hugging Face's names."""
    h, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv = h // heads * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], h), "model.norm.weight": (h,)}
    shapes["lm_head.weight"] = (config["vocab_size"], h)
    for i in range(config["num_hidden_layers"]):
        layer = {"input_layernorm": (h,), "post_attention_layernorm": (h,)}
        layer |= {"self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h)}
        layer |= {"self_attn.o_proj": (h, h), "mlp.gate_proj": (inner, h), "mlp.up_proj": (inner, h)}
        layer |= {"mlp.down_proj": (h, inner)}
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return {name: draw(name, shape) for name, shape in shapes.items()}


def metadata_of(config: dict) -> dict:
    """Metadata keys -> values, of config.json of Llama, Qwen 2 or Qwen 3."""
    arch = config["model_type"]
    heads = config["num_attention_heads"]
    fields = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "rope.freq_base": float(config.get("rope_theta", 10000.0)),
        "vocab_size": config["vocab_size"],
    }
    width = config.get("head_dim") or config["hidden_size"] // heads
    fields |= {"attention.key_length": width, "attention.value_length": width, "rope.dimension_count": width}
    return {f"{arch}.{key}": value for key, value in fields.items()}


def write_gguf(path: Path, architecture: str, metadata: dict, tensors: dict) -> Path:
    """tensors: arrays, or (name of a block format, rows of bytes). None as a value leaves a key or a tensor out."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    kinds = gguf.GGUFValueType
    for key, value in metadata.items():
        if isinstance(value, (list, tuple, bytes)):
            writer.add_array(key, value)
        elif value is not None:
            kind = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING}[type(value)]
            writer.add_key_value(key, value, kind)
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[1], raw_dtype=gguf.GGMLQuantizationType[tensor[0]])
        elif tensor is not None:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors_in_gguf(config: dict, tensors: dict) -> dict:
    """The same under the names, and in the order, that llama.cpp has."""
    found = {}
    for name, array in tensors.items():
        if config["model_type"] == "llama" and (".q_proj." in name or ".k_proj." in name):
            array = in_pairs(array, config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"])
        found[name_in_gguf(name)] = array
    return found


def by_name_map(architecture: str, tensors: dict, layers: int) -> dict:
    """The tensors of a folder under the names that the package gguf has for an architecture, as they are stored there.

    Weights of Gemma's norms have 1 added, GPT-2's matrices are turned round (llama.cpp's convert_hf_to_gguf.py).
    """
    import gguf

    kind = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names, found = gguf.get_tensor_name_map(kind, layers), {}
    for name, array in tensors.items():
        new = names.get_name(name.removeprefix("transformer."), try_suffixes=(".weight", ".bias"))
        new = names.get_name(name, try_suffixes=(".weight", ".bias")) if new is None else new
        assert new is not None, name
        if architecture.startswith("gemma") and new.endswith("norm.weight"):
            array = array + np.float32(1)
        if architecture == "gpt2" and ".c_" in name and name.endswith(".weight"):
            array = array.T
        found[new] = array
    return found
