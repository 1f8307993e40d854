"""Folders of the four kinds of model that a server offers: tiny, with random weights.

tests/clients and tests/server/soak.py serve them. The chat model has a token for each byte, so that it reads any
prompt and writes any JSON, and a template with tools in Hermes' form. A further kind is an entry in `write_served`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from decoder_cases import draw
from model_folders import WORDS, write_json, write_sentence_model
from pipeline_folders import write_head

CONTEXT = 4096
END = "<|im_end|>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", END]
CHAT_TEMPLATE = """{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
Answer a call as <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def _byte_tokens() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return [*sorted(ByteLevel.alphabet()), *SPECIAL]


def _write_byte_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = _byte_tokens()
    alphabet = tokens[: -len(SPECIAL)]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": SPECIAL[0]}
    write_json(folder / "tokenizer_config.json", settings | {"chat_template": CHAT_TEMPLATE})


def write_chat_model(folder: Path) -> Path:
    """A Llama of two layers that reads and writes bytes, in `folder`, which is made."""
    import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors needs
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    vocabulary, h, inner = len(_byte_tokens()), _LLAMA["hidden_size"], _LLAMA["intermediate_size"]
    kv = h // _LLAMA["num_attention_heads"] * _LLAMA["num_key_value_heads"]
    shapes = {name: (vocabulary, h) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    shapes["model.norm.weight"] = (h,)
    for i in range(_LLAMA["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.{name}_layernorm.weight": (h,) for name in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (n, h) for name, n in (("q", h), ("k", kv), ("v", kv))}
        shapes[f"{layer}.self_attn.o_proj.weight"] = (h, h)
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, h) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (h, inner)
    save_file({name: draw(name, shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    ends = {"eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - len(SPECIAL), "bos_token_id": None}
    write_json(folder / "config.json", _LLAMA | {"vocab_size": vocabulary} | ends)
    _write_byte_tokenizer(folder)
    return folder


def write_served(root: Path) -> dict[str, Path]:
    """A folder of each kind under `root`, by the name under which tests serve it."""
    return {
        "embed": write_sentence_model(root / "embed", normalize=False),
        "rerank": write_head(root / "rerank", "SequenceClassification", labels=1),
        "classify": write_head(root / "classify", "SequenceClassification"),
        "chat": write_chat_model(root / "chat"),
    }


def random_texts(rng: np.random.Generator, count: int) -> list[str]:
    """Texts of 1 to 18 words that the tokenizers of the encoders know."""
    words = [word for word in WORDS[5:] if not word.startswith("##")]
    return [" ".join(rng.choice(words, rng.integers(1, 19))) for _ in range(count)]
