"""Folders of decoders and encoder-decoders that encode or score texts: random weights and a tokenizer of a few words.

tests/pipelines/test_text_decoders.py and tests/oracle/test_text_decoders.py read them. A further kind of model is an
entry in MODELS.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from model_folders import WORDS, write_json

from transformer_fast import models, nn

TOKENS = [*WORDS, "yes", "no", "user", "assistant", "system", "<|im_start|>", "<|im_end|>", *"01234"]
SPECIAL = [*WORDS[:5], "<|im_start|>", "<|im_end|>"]
TEXTS = ["the cat sat on the mat.", "dog", "The Cat ran, far!", "the dog ran far! " * 12, "a b c"]
PAIRS = [
    ("the cat", "sat on the mat"),
    ("a", "dog"),
    ("dog " * 12, "the cat sat on the mat, " * 8),
    ("far", "mat. cat"),
]
LIMIT = 40

_SIZES = {
    "vocab_size": len(TOKENS),
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_QWEN3 = {**_SIZES, "head_dim": 8}
_T5 = {"vocab_size": len(TOKENS), "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4}
_T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
_GEMMA = {**_QWEN3, "query_pre_attn_scalar": 8, "sliding_window": 6}
_GEMMA |= {"layer_types": ["sliding_attention", "full_attention"], "use_bidirectional_attention": True}
_GPT2 = {"vocab_size": len(TOKENS), "n_positions": 48, "n_embd": 24, "n_layer": 2, "n_head": 4}

# Name -> the family's prefix of its classes, and the fields of its config.
MODELS = {
    "qwen3": ("Qwen3", _QWEN3),
    "mistral_both_ways": ("Mistral", {**_SIZES, "sliding_window": 5, "is_causal": False}),
    "mistral": ("Mistral", {**_SIZES, "sliding_window": 5}),
    "llama_both_ways": ("Llama", {**_SIZES, "is_causal": False}),
    "gemma": ("Gemma", _QWEN3),
    "gemma3": ("Gemma3Text", _GEMMA),
    "qwen3_moe": (
        "Qwen3Moe",
        {**_QWEN3, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "is_causal": False},
    ),
    "gpt2": ("GPT2", _GPT2),
    "t5": ("T5", _T5),
    "mt5": ("MT5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "longt5": ("LongT5", {**_T5, "local_radius": 3, "global_block_size": 2}),
}


def write_tokenizer(folder: Path, chat_template: str | None = None, limit: int | None = LIMIT, side="left") -> None:
    """Texts end with [SEP], as those of Qwen3-Embedding do with their own token."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", TOKENS.index("[SEP]"))]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "eos_token": "[SEP]"}
    config |= {"unk_token": "[UNK]", "padding_side": side}
    config |= {} if limit is None else {"model_max_length": limit}
    config |= {} if chat_template is None else {"chat_template": chat_template}
    write_json(folder / "tokenizer_config.json", config)


def write_model(folder: Path, name: str, head: str = "Model", chat_template: str | None = None, **changes) -> Path:
    """The model `name` of MODELS with a head ("ForCausalLM", ...), and the tokenizer; changes: of its config."""
    prefix, fields = MODELS[name]
    made = getattr(models, prefix + head)
    nn.manual_seed(0)
    model = made(made.read_config(fields | changes, folder / "config.json"))
    rng = np.random.default_rng(0)
    state = model.state_dict()
    for key in state:
        if "norm" in key:
            state[key] = state[key] + rng.normal(0, 0.2, state[key].shape).astype(np.float32)
    model.load_state_dict(state)
    model.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    named = {"model_type": model.model_types[0], "architectures": content["architectures"]}
    write_json(folder / "config.json", named | fields | changes)  # transformers fails on fields that are null
    write_tokenizer(folder, chat_template)
    return folder


def write_modules(folder: Path, kinds: dict[str, dict | None]) -> Path:
    """modules.json: Transformer in `folder` itself, then these kinds with a config.json each."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, (kind, config) in enumerate(kinds.items(), 1):
        path = f"{i}_{kind}"
        modules.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(exist_ok=True)
        if config is not None:
            write_json(folder / path / "config.json", config)
    write_json(folder / "modules.json", modules)
    return folder


def change_json(path: Path, **fields) -> None:
    """Set fields of a JSON file."""
    write_json(path, json.loads(path.read_text()) | fields)
