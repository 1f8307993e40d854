"""What GGUF files call things, and what Hugging Face folders call them: settings and tensors of each architecture.

`gguf_source` calls `config_of` and `tensors_of`. A new architecture is a line in `ARCHITECTURES`, if a family of
`models` reads its config.json. Metadata that no table has goes into config.json under its own name, so that the model
refuses it by that name, as it refuses any field that it does not know.

Names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf import GgufFile
from transformer_fast.files.source import Tensor

# Keys after the architecture's name -> fields of config.json.
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
_NEEDED = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
_NEEDED += ("attention.layer_norm_rms_epsilon",)
# Read below: they must agree with others.
_CHECKED = ("attention.value_length", "rope.dimension_count", "vocab_size")
_SCALING = ("type", "factor", "original_context_length", "attn_factor", "finetuned")
# Beginnings of keys that say nothing of the computation: who made the file, from what, and how it was rounded.
_ABOUT = ("general.", "quantize.", "tokenizer.", "split.")

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
# Frequencies of rotary positions divided by a factor each: Llama 3.1 and later.
_ROPE_FACTORS = "rope_freqs.weight"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One architecture: its model_type and class, and where the file's rows have another order.

    turned: queries and keys of a head have the two numbers that rotary positions turn side by side; Hugging Face's have
    the first half of the head's numbers before the second.
    """

    model_type: str
    model_class: str
    turned: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", turned=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM"),
}


@dataclasses.dataclass(frozen=True)
class _TurnedTensor(Tensor):
    """Rows of heads in the order of pairs, which are read in that of halves."""

    stored: Tensor | None = None
    heads: int = 1

    def array(self) -> np.ndarray:
        return self._in_halves(self.stored.array())

    def floating(self) -> np.ndarray:
        return self._in_halves(self.stored.floating())

    def blocks(self) -> np.ndarray:
        """The bytes of each row, in that order; of a tensor in blocks alone."""
        return self._in_halves(self.stored.blocks())

    def _in_halves(self, stored: np.ndarray) -> np.ndarray:
        pairs = stored.reshape(self.heads, -1, 2, *stored.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(stored.shape)


def architecture_of(file: GgufFile) -> tuple[str, Architecture]:
    """The architecture that a file names.

    Raises:
        CheckpointError: it names none, or one that is not supported.
    """
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"{file.path}: general.architecture is {name!r}; supported: {known}")
    return name, ARCHITECTURES[name]


def config_of(file: GgufFile) -> dict[str, Any]:
    """config.json as a folder of the same model has it.

    Raises:
        CheckpointError: what the model needs is missing, has another type or contradicts itself.
    """
    name, architecture = architecture_of(file)
    own = _Settings(file, name)
    config: dict[str, Any] = {"model_type": architecture.model_type, "architectures": [architecture.model_class]}
    for key in _NEEDED:
        if own.get(key) is None:
            raise CheckpointError(f"{file.path}: there is no metadata {name + '.' + key!r}; needed: a number")
    config |= {field: own.get(key) for key, field in _FIELDS.items() if own.get(key) is not None}
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise CheckpointError(f"{file.path}: there is no tensor 'token_embd.weight' with two axes; needed: one")
    config["vocab_size"] = table.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    config.setdefault("rope_theta", 10000.0)
    width = config.setdefault("head_dim", own.get("rope.dimension_count") or _width(config))
    own.same("attention.value_length", width)
    own.same("rope.dimension_count", width)
    own.same("vocab_size", config["vocab_size"])
    if "blk.0.attn_q.bias" in file.tensors and architecture.model_type == "llama":
        config["attention_bias"] = True
    scaling = _scaling(file, own, config)
    if scaling:
        config["rope_scaling"] = scaling
    for number, field in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        if (found := file.metadata.get(f"tokenizer.ggml.{field}_token_id")) is not None:
            config[number] = found
    known = {f"{name}.{key}" for key in (*_FIELDS, *_CHECKED, *(f"rope.scaling.{key}" for key in _SCALING))}
    return config | {
        key: _plain(value) for key, value in file.metadata.items() if key not in known and not key.startswith(_ABOUT)
    }


def _width(config: Mapping[str, Any]) -> int:
    return config["hidden_size"] // max(config["num_attention_heads"], 1)


def _plain(value: Any) -> Any:
    """What JSON can hold of a metadata value: a long array is told by its type."""
    return value if isinstance(value, (bool, int, float, str)) else f"an array of {len(value)} values"


class _Settings:
    """Metadata under the architecture's name."""

    def __init__(self, file: GgufFile, name: str) -> None:
        self._file, self._name = file, name

    def get(self, key: str) -> Any:
        """The value, a number for all layers: an array is one if all its numbers are equal."""
        value = self._file.metadata.get(f"{self._name}.{key}")
        if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
            value = value[0].item()
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise CheckpointError(
                f"{self._file.path}: metadata {self._name + '.' + key!r} is {_plain(value)!r}; needed: one number"
            )
        return value

    def text(self, key: str) -> str | None:
        value = self._file.metadata.get(f"{self._name}.{key}")
        if value is not None and not isinstance(value, str):
            raise CheckpointError(
                f"{self._file.path}: metadata {self._name + '.' + key!r} is {_plain(value)!r}; needed: a string"
            )
        return value

    def same(self, key: str, expected: int) -> None:
        """An error where a value is there and is another one."""
        found = self.get(key)
        if found is not None and found != expected:
            raise CheckpointError(
                f"{self._file.path}: metadata {self._name + '.' + key!r} is {found}; needed: {expected}"
            )


def _scaling(file: GgufFile, own: _Settings, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """rope_scaling of config.json."""
    own.same("rope.scaling.attn_factor", 1)  # ggml multiplies YaRN's own factor by it; attention_factor replaces that
    kind, factors = own.text("rope.scaling.type"), file.tensors.get(_ROPE_FACTORS)
    if factors is not None:
        if kind not in (None, "none"):
            raise CheckpointError(f"{file.path}: has {_ROPE_FACTORS!r} and rope.scaling.type {kind!r}; needed: one")
        half = config["head_dim"] // 2
        if factors.shape != (half,):
            raise CheckpointError(f"{file.path}: tensor {_ROPE_FACTORS!r} has shape {factors.shape}; needed: {(half,)}")
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
        raise CheckpointError(f"{file.path}: rope.scaling.type is {kind!r}; supported: none, linear, yarn")
    found = {"rope_type": kind, "factor": own.get("rope.scaling.factor")}
    if kind == "yarn":
        found["original_max_position_embeddings"] = own.get("rope.scaling.original_context_length")
    return {key: value for key, value in found.items() if value is not None}


def tensors_of(file: GgufFile, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under Hugging Face's names; one that no table has keeps its own, which the model refuses."""
    _, architecture = architecture_of(file)
    found = {}
    for name, tensor in file.tensors.items():
        if name == _ROPE_FACTORS:
            continue
        heads = _heads(name, config) if architecture.turned else 0
        found[_renamed(name)] = _turned(tensor, heads) if heads else tensor
    return found


def _renamed(name: str) -> str:
    stem, dot, end = name.rpartition(".")
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if layer and layer[2] in _LAYER:
        return f"model.layers.{layer[1]}.{_LAYER[layer[2]]}{dot}{end}"
    return f"{_TENSORS[stem]}{dot}{end}" if stem in _TENSORS else name


def _heads(name: str, config: Mapping[str, Any]) -> int:
    """How many heads a tensor of queries or keys has; 0 for all others."""
    if re.match(r"blk\.\d+\.attn_q\.", name):
        return config["num_attention_heads"]
    if re.match(r"blk\.\d+\.attn_k\.", name):
        return config.get("num_key_value_heads") or config["num_attention_heads"]
    return 0


def _turned(tensor: Tensor, heads: int) -> Tensor:
    if not tensor.shape or tensor.shape[0] % (2 * heads):
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name!r} has shape {tensor.shape}; needed: rows of {heads} heads"
        )
    fields = {field.name: getattr(tensor, field.name) for field in dataclasses.fields(Tensor)}
    return _TurnedTensor(**fields, stored=tensor, heads=heads)
