"""GGUF files of mixtures of experts for tests: folders' tensors, and the same as llama.cpp's converter stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from decoder_cases import config, draw
from gguf_files import by_name_map, in_pairs, metadata_of, write_gguf
from model_folders import write_json

ARCHITECTURES = {"mixtral": "llama", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss"}
# What files of an architecture say of the model without a key for it.
_SAID = {"qwen3_moe": {"mlp_only_layers": [], "norm_topk_prob": True}, "gpt_oss": {"swiglu_limit": 7.0}}
_ROUTERS = {"qwen3_moe": "mlp.gate", "mixtral": "mlp.gate", "gpt_oss": "mlp.router"}


def settings_of(case: str, **changes) -> dict:
    """config.json of a case of decoder_cases, as a GGUF file can say it."""
    return config(case) | _SAID.get(case, {}) | changes


def tensors_of(settings: dict) -> dict[str, np.ndarray]:
    """The tensors of a folder of any size, as transformers writes them."""
    case, h, E = settings["model_type"], settings["hidden_size"], settings["num_local_experts"]
    width = settings.get("head_dim") or h // settings["num_attention_heads"]
    inner = settings.get("moe_intermediate_size") or settings["intermediate_size"]
    q, kv = width * settings["num_attention_heads"], width * settings["num_key_value_heads"]
    shapes = {f"{name}.weight": (settings["vocab_size"], h) for name in ("model.embed_tokens", "lm_head")}
    shapes["model.norm.weight"] = (h,)
    for i in range(settings["num_hidden_layers"]):
        products = {"q": (q, h), "k": (kv, h), "v": (kv, h), "o": (h, q)}
        products = {f"self_attn.{name}_proj": shape for name, shape in products.items()}
        products[_ROUTERS[case]] = (E, h)
        layer = {f"{name}.weight": shape for name, shape in products.items()}
        layer |= {"input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,)}
        stacks = {"gate_up_proj": (E, 2 * inner, h), "down_proj": (E, h, inner)}
        if case == "qwen3_moe":
            layer |= {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
        if case == "gpt_oss":
            layer |= {f"{name}.bias": shape[:1] for name, shape in products.items()}
            layer["self_attn.sinks"] = (settings["num_attention_heads"],)
            stacks = {name: (E, K, N) for name, (_, N, K) in stacks.items()}
            layer |= {f"mlp.experts.{name}_bias": (E, N) for name, (_, _, N) in stacks.items()}
        layer |= {f"mlp.experts.{name}": shape for name, shape in stacks.items()}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return {name: draw(name, shape) for name, shape in shapes.items()}


def write_folder(folder: Path, settings: dict, tensors: dict) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir()
    write_json(folder / "config.json", settings)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "model.safetensors")
    return folder


def in_gguf(settings: dict, tensors: dict) -> dict[str, np.ndarray]:
    """Gate and up apart, matrices as (experts, rows, columns), and Llama's queries and keys in pairs."""
    case, plain, found = settings["model_type"], {}, {}
    for name, array in tensors.items():
        if name.endswith("self_attn.sinks"):
            plain[f"{name}.weight"] = array
        elif ".experts." not in name:
            for part, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads")):
                if case == "mixtral" and f".{part}_proj." in name:
                    array = in_pairs(array, settings[heads])
            plain[name] = array
        else:
            layer, end = f"blk.{name.split('.')[2]}", "bias" if name.endswith("_bias") else "weight"
            if case == "gpt_oss":
                array = array if end == "bias" else array.swapaxes(1, 2)
                halves = array[:, ::2], array[:, 1::2]
            else:
                halves = np.split(array, 2, axis=1)
            if "down_proj" in name:
                found[f"{layer}.ffn_down_exps.{end}"] = array
            else:
                found[f"{layer}.ffn_gate_exps.{end}"], found[f"{layer}.ffn_up_exps.{end}"] = halves
    return found | by_name_map(ARCHITECTURES[case], plain, settings["num_hidden_layers"])


def metadata_of_experts(settings: dict) -> dict:
    """The keys that llama.cpp's converter writes."""
    case, rope = settings["model_type"], settings["rope_parameters"]
    keys = metadata_of(settings | {"rope_theta": rope["rope_theta"]})
    keys |= {f"{case}.expert_count": settings["num_local_experts"]}
    keys |= {f"{case}.expert_used_count": settings["num_experts_per_tok"]}
    if case != "mixtral":
        inner = settings.get("moe_intermediate_size") or settings["intermediate_size"]
        keys[f"{case}.expert_feed_forward_length"] = inner
    if settings.get("sliding_window"):
        keys[f"{case}.attention.sliding_window"] = settings["sliding_window"]
    if rope["rope_type"] == "yarn":
        keys |= {f"{case}.rope.scaling.type": "yarn", f"{case}.rope.scaling.factor": rope["factor"]}
        keys[f"{case}.rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        keys |= {f"{case}.rope.scaling.yarn_{beta}": rope[beta] for beta in ("beta_fast", "beta_slow")}
    return {key.replace(case, ARCHITECTURES[case], 1): value for key, value in keys.items()}


def write_experts(path: Path, settings: dict, tensors: dict, tokenizer: dict | None = None, **further) -> Path:
    """tensors: by the names of GGUF; further: keys after the architecture's name; None: left out."""
    architecture = ARCHITECTURES[settings["model_type"]]
    keys = {f"{architecture}.{key}": value for key, value in further.items()}
    return write_gguf(path, architecture, metadata_of_experts(settings) | keys | (tokenizer or {}), tensors)
