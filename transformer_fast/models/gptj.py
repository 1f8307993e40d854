"""GPT-J: attention and feed-forward side by side behind one norm, rotated pairs of neighbours.

Source: Wang and Komatsuzaki 2021, https://github.com/kingoflolz/mesh-transformer-jax, and transformers' modeling_gptj.
`load_model` finds this file by model_type "gptj"; `common.layer_norm_blocks` has the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transformer_fast.models.common.config import Labels, Number, check_activation, check_fields, check_heads
from transformer_fast.models.common.decoder_classifier import DecoderClassifier
from transformer_fast.models.common.layer_norm_blocks import BiasedCausalLM, PlainDecoder, PlainOptions
from transformer_fast.nn import RotaryEmbedding


@dataclass(frozen=True)
class GPTJConfig(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 50400
    n_positions: int = 2048
    n_embd: int = 4096
    n_layer: int = 28
    n_head: int = 16
    rotary_dim: int = 64
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False
    pad_token_id: Number | None = None

    general_names = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    without_effect = (
        "is_decoder",
        "is_encoder_decoder",
        "add_cross_attention",
        # Of the first folders, by the code of GPT-2 and GPT-Neo.
        "gradient_checkpointing",
        "rotary",
        "scale_attn_weights",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_activation(self, "activation_function")
        check_heads(self, "n_head", "n_embd")
        if self.rotary_dim % 2 or self.rotary_dim > self.width_of_head:
            raise ValueError(
                f"rotary_dim is {self.rotary_dim}; "
                f"needed: an even number up to the {self.width_of_head} columns of a head"
            )

    # What `layer_norm_blocks` calls them.

    @property
    def hidden_size(self) -> int:
        return self.n_embd

    @property
    def intermediate_size(self) -> int:
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def num_hidden_layers(self) -> int:
        return self.n_layer

    @property
    def num_attention_heads(self) -> int:
        return self.n_head

    @property
    def max_position_embeddings(self) -> int:
        return self.n_positions

    @property
    def kv_heads(self) -> int:
        return self.n_head

    @property
    def width_of_head(self) -> int:
        return self.n_embd // self.n_head

    @property
    def activation(self) -> str:
        return self.activation_function

    def rotation(self, name: str) -> RotaryEmbedding:
        return RotaryEmbedding(self.rotary_dim, interleaved=True)

    def block(self) -> PlainOptions:
        """The options of the layers."""
        return PlainOptions(
            eps=self.layer_norm_epsilon,
            parallel=True,
            shared_norm=True,
            qkv_bias=False,
            out_bias=False,
            interleaved=True,
        )


class _GPTJ:
    """The parts that the model has with and without a head."""

    config_class = GPTJConfig
    model_types = ("gptj",)
    neutral: Mapping[str, tuple] = {"pruned_heads": ({}, None), "is_causal": (True,)}
    stacks = {"h.": "n_layer"}
    base_prefix = "transformer."

    @classmethod
    def canonical(cls, name: str) -> str:
        name = name.removeprefix("transformer.")
        # Old files hold each layer's triangular mask, and tables of angles.
        ends = (".attn.bias", ".attn.masked_bias", ".embed_positions")
        return f"constant.{name}" if name.endswith(ends) else name


class GPTJModel(_GPTJ, PlainDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> model = GPTJModel(GPTJConfig(50, n_positions=16, n_embd=8, n_layer=1, n_head=2, rotary_dim=2))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    ignored = ("constant.", "lm_head.", "score.", "qa_outputs.")
    stack_names = {"embed_tokens": "wte", "final_norm": "ln_f"}
    layer_names = {
        "attention_norm": "ln_1",
        "qkv_proj.q": "attn.q_proj",
        "qkv_proj.k": "attn.k_proj",
        "qkv_proj.v": "attn.v_proj",
        "out_proj": "attn.out_proj",
        "linear1": "mlp.fc_in",
        "linear2": "mlp.fc_out",
    }

    def embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        if positions.size and not 0 <= positions.min() <= positions.max() < self.config.n_positions:
            raise IndexError(
                f"positions reach from {positions.min()} to {positions.max()}; "
                f"needed: 0 to {self.config.n_positions - 1} (n_positions - 1)"
            )
        return super().embed(ids, positions)

    @property
    def max_length(self) -> int:
        return self.config.n_positions

    def check_capacity(self, capacity: int) -> None:
        if capacity > self.config.n_positions:
            raise ValueError(
                f"rows may grow to {capacity} tokens; needed: at most n_positions={self.config.n_positions} "
                "(choose max_length or max_new_tokens accordingly)"
            )


class GPTJForCausalLM(_GPTJ, BiasedCausalLM):
    """GPT-J with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> model = GPTJForCausalLM(GPTJConfig(50, n_positions=16, n_embd=8, n_layer=1, n_head=2, rotary_dim=2))
        >>> model.generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4, eos_token_id=2).shape
        (1, 7)
    """

    body_class = GPTJModel
    body_name = "transformer"
    embedding_name = "embed_tokens.weight"
    ignored = ("constant.", "lm_head.")
    generation_config = {"bos_token_id": 50256, "eos_token_id": 50256}


class GPTJForSequenceClassification(_GPTJ, DecoderClassifier):
    """GPT-J with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = GPTJConfig(50, n_positions=16, n_embd=8, n_layer=1, n_head=2, rotary_dim=2, num_labels=3)
        >>> GPTJForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    body_class = GPTJModel
    body_name = "transformer"
    ignored = ("constant.", "lm_head.")
