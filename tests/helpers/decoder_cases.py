"""Tiny decoders for tests: their configs, and weights that everybody can draw again from the tensors' names.

tests/golden/make_decoders.py gives the weights to transformers and stores what it answers (golden/decoders.npz); the
tests of models write the same folder and ask this library. A new case is an entry in CASES and a run of that script.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from model_folders import write_json

GOLDEN = Path(__file__).parent.parent / "golden" / "decoders.npz"
TOLERANCE = 1e-5
NEW_TOKENS = 10
BEAMS = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7}

GPT2 = {"model_type": "gpt2", "vocab_size": 40, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
_GATED = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
LLAMA = {"model_type": "llama", **_GATED}
MISTRAL = {"model_type": "mistral", **_GATED, "sliding_window": 4}
QWEN2 = {"model_type": "qwen2", **_GATED}
QWEN3 = {"model_type": "qwen3", **_GATED, "head_dim": 6}
GEMMA = {"model_type": "gemma", **_GATED, "head_dim": 8}
GEMMA2 = {"model_type": "gemma2", **_GATED, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 10}
GEMMA3 = {
    **GEMMA2,
    "model_type": "gemma3_text",
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
# Eight columns a head, half of them rotated; a generation grows beyond 12 tokens, into the long factors.
PHI3 = {
    "model_type": "phi3",
    **_GATED,
    "hidden_size": 32,
    "partial_rotary_factor": 0.5,
    "original_max_position_embeddings": 12,
    "sliding_window": 9,
    "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0, 1.3], "long_factor": [1.5, 4.0]},
}
OLMO2 = {"model_type": "olmo2", **_GATED}
SMOLLM3 = {
    "model_type": "smollm3",
    **_GATED,
    "no_rope_layer_interval": 2,
    "use_sliding_window": True,
    "sliding_window": 4,
}
GRANITE = {
    "model_type": "granite",
    **_GATED,
    "embedding_multiplier": 3.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
}
NEOX = {name: value for name, value in _GATED.items() if name != "num_key_value_heads"}
NEOX |= {"model_type": "gpt_neox", "hidden_size": 32}
STARCODER2 = {"model_type": "starcoder2", **_GATED, "sliding_window": 4}
PHI = {"model_type": "phi", **_GATED, "hidden_size": 32, "qk_layernorm": True}
GPTJ = {**GPT2, "model_type": "gptj", "rotary_dim": 4}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    **_GATED,
    "num_hidden_layers": 3,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "mlp_only_layers": [1],
}
MIXTRAL = {"model_type": "mixtral", **_GATED, "num_local_experts": 4, "sliding_window": 4}
GPT_OSS = {
    "model_type": "gpt_oss",
    **_GATED,
    "head_dim": 8,
    "sliding_window": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "swiglu_limit": 0.7,
}
# Attention in both directions, which generates nothing: with windows on either side, and EmbeddingGemma's.
MISTRAL_BOTH_WAYS = {**MISTRAL, "sliding_window": 3, "is_causal": False}
GEMMA3_BOTH_WAYS = {**GEMMA3, "query_pre_attn_scalar": 40, "sliding_window": 5, "use_bidirectional_attention": True}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 |= {"original_max_position_embeddings": 16, "rope_theta": 500000.0}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}

CASES = {
    "gpt2": GPT2,
    "gpt2_untied": {
        **GPT2,
        "n_embd": 15,
        "n_head": 3,
        "n_inner": 17,
        "activation_function": "relu",
        "tie_word_embeddings": False,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "llama": LLAMA,
    "llama_biases_llama3": {
        **LLAMA,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "head_dim": 10,
        "hidden_act": "gelu",
        "rope_parameters": _LLAMA3,
    },
    "llama_yarn": {**LLAMA, "rope_parameters": _YARN},
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen2_windows": {**QWEN2, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "mistral_both_ways": MISTRAL_BOTH_WAYS,
    "gemma3_both_ways": GEMMA3_BOTH_WAYS,
    "phi3": PHI3,
    "olmo2": OLMO2,
    "smollm3": SMOLLM3,
    "granite": GRANITE,
    "gpt_neox": NEOX,
    "gpt_neox_in_turn": {**NEOX, "use_parallel_residual": False, "attention_bias": False, "rotary_pct": 0.75},
    "starcoder2": STARCODER2,
    "phi": PHI,
    "gptj": GPTJ,
    "qwen3_moe": QWEN3_MOE,
    "mixtral": MIXTRAL,
    "gpt_oss": GPT_OSS,
}


def generates(content: dict) -> bool:
    """Is it a config of a model that continues texts?"""
    return content.get("is_causal", True) and not content.get("use_bidirectional_attention")


GENERATING = [case for case, content in CASES.items() if generates(content)]


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name, the same everywhere: around 1 for norms, else around 0."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    norm = name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
    return 1 + values / 10 if norm else values * np.float32(0.3)


def inputs(vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids (3, 8), a mask with padding on both sides, a mask with padding on the left)."""
    ids = np.random.default_rng(7).integers(3, vocab_size, (3, 8))
    mask = np.ones((3, 8), np.int64)
    mask[1, :3], mask[2, -2:] = 0, 0
    left = np.ones((3, 8), np.int64)
    left[1, :3], left[2, :6] = 0, 0
    return ids, mask, left


def golden(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {name.partition("/")[2]: file[name] for name in file.files if name.startswith(f"{case}/")}


def tensors(case: str) -> dict[str, np.ndarray]:
    return {name: draw(name, tuple(shape)) for name, shape in json.loads(str(golden(case)["shapes"])).items()}


def config(case: str) -> dict:
    return json.loads(str(golden(case)["config"]))


def write(folder: Path, case: str, changes: dict | None = None, replaced: dict | None = None) -> Path:
    """The folder of a case, with some fields of config.json and some tensors replaced (None: removed)."""
    import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors needs
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    content = config(case) | (changes or {})
    write_json(folder / "config.json", {name: value for name, value in content.items() if value is not ...})
    files = tensors(case) | (replaced or {})
    save_file({name: array for name, array in files.items() if array is not None}, folder / "model.safetensors")
    return folder


def check_golden(folder: Path, case: str) -> None:
    """Logits, hidden states, attentions, and of causal models greedy and beam search are transformers' own."""
    from transformer_fast import load_model

    model, answers = load_model(write(folder, case)), golden(case)
    ids, mask, left = inputs(model.config.vocab_size)
    output = model(ids, mask, output_hidden_states=True, output_attentions=True)
    tokens = mask.astype(bool)

    def close(got, expected):
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)

    close(output.logits[tokens], answers["logits"])
    close(output.hidden_states[1][tokens], answers["hidden_state"])
    close(output.attentions[-1].swapaxes(1, 2)[tokens], answers["attentions"])
    assert len(output.hidden_states) == len(output.attentions) + 1
    if not generates(config(case)):
        return
    options = {"max_new_tokens": NEW_TOKENS, "pad_token_id": 1, "eos_token_id": int(answers["eos"])}
    assert model.generate(ids, left, **options).tolist() == answers["greedy"].tolist()
    assert model.generate(ids, left, **options, **BEAMS).tolist() == answers["beams"].tolist()


def write_byte_gpt2(folder: Path) -> Path:
    """A GPT-2 of 256 tokens, one a byte, for 400 positions, and its tokenizer, in a folder that is there."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    h = GPT2["n_embd"]
    shapes = {"wte.weight": (256, h), "wpe.weight": (400, h), "ln_f.weight": (h,), "ln_f.bias": (h,)}
    for i in range(GPT2["n_layer"]):
        for name, (rows, columns) in {
            "attn.c_attn": (h, 3 * h),
            "attn.c_proj": (h, h),
            "mlp.c_fc": (h, 4 * h),
            "mlp.c_proj": (4 * h, h),
        }.items():
            shapes |= {f"h.{i}.{name}.weight": (rows, columns), f"h.{i}.{name}.bias": (columns,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (h,), f"h.{i}.{norm}.bias": (h,)}
    save_file({name: draw(name, shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    config = {**GPT2, "vocab_size": 256, "n_positions": 400, "architectures": ["GPT2LMHeadModel"], "eos_token_id": None}
    write_json(folder / "config.json", config)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
