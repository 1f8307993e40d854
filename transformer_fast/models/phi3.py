"""Phi-3, Phi-3.5 and Phi-4-mini: Llama with fused projections in the file, partly rotated heads, and two sets of
frequencies for short and for long texts.

Source: Abdin et al. 2024, https://arxiv.org/abs/2404.14219, and transformers' modeling_phi3. `load_model` finds this
file by model_type "phi3"; `common.decoder_blocks` has the layers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models.common.base import Part, Source
from transformer_fast.models.common.config import Number
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
)
from transformer_fast.models.common.decoding import DecoderState
from transformer_fast.models.common.inputs import integers


@dataclass(frozen=True)
class Phi3Config(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    pad_token_id: Number | None = 32000
    hidden_act: str = "silu"
    original_max_position_embeddings: int = 4096
    partial_rotary_factor: float = 1.0
    sliding_window: int | None = None

    def rotations(self) -> Mapping[str, tuple[float, dict | None]]:
        """Types "su" and "yarn" are older names of "longrope"; its original context is always the config's field."""
        scaling = self.rope_scaling or self.rope_parameters or {}
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        if kind not in ("default", "longrope", "su", "yarn"):
            field = "rope_scaling" if self.rope_scaling else "rope_parameters"
            raise ValueError(f"{field} has the type {kind!r}; needed: default or longrope")
        if kind != "default":
            original = {"original_max_position_embeddings": self.original_max_position_embeddings}
            scaling = scaling | {"rope_type": "longrope"} | original
        return {"all": (self.rope_theta, scaling)}

    @property
    def short_texts(self) -> int | None:
        """The longest text that is rotated by the short factors; None: there is one set of frequencies."""
        _, scaling = self.rotations()["all"]
        return self.original_max_position_embeddings if scaling.get("rope_type") == "longrope" else None

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(scale=self.width_of_head**-0.5, window=self.sliding_window)


# A part of a head may be rotated. The others are of the code in the first folders, which could do more than Phi-3 does.
_NEUTRAL = {name: values for name, values in GatedDecoder.neutral.items() if name != "partial_rotary_factor"} | {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "lm_head_bias": (False, None),
    "full_attn_mod": (1,),
    "interpolate_factor": (1,),
}


class Phi3Model(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = Phi3Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0)
        >>> Phi3Model(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = Phi3Config
    model_types = ("phi3",)
    neutral = _NEUTRAL

    @classmethod
    def sources(cls, config: Phi3Config, names: Collection[str]) -> dict[str, Source]:
        sources, D, inner = super().sources(config, names), config.width_of_head, config.intermediate_size
        ends = np.cumsum([0, config.num_attention_heads * D, config.kv_heads * D, config.kv_heads * D]).tolist()
        for i in range(config.num_hidden_layers):
            ours, qkv, both = f"layers.{i}", f"layers.{i}.self_attn.qkv_proj", f"layers.{i}.mlp.gate_up_proj"
            for part, first, last in zip("qkv", ends[:-1], ends[1:], strict=True):
                rows = Part(f"{qkv}.weight", of=ends[3], rows=slice(first, last))
                sources[f"{ours}.qkv_proj.{part}_weight"] = Source(rows)
            for part, first in (("gate", 0), ("up", inner)):
                rows = Part(f"{both}.weight", of=2 * inner, rows=slice(first, first + inner))
                sources[f"{ours}.{part}_proj.weight"] = Source(rows)
        return sources


class _ShortTexts:
    """The state of a generation that has the short factors yet, with the ids of each row for when it grows too long."""

    def __init__(self, ids: list[list[int]], state: DecoderState, options: dict[str, Any]) -> None:
        self.ids, self.state, self.options = ids, state, options  # options: of start

    def reorder(self, index: np.ndarray) -> None:
        """As `DecoderState.reorder`."""
        self.state.reorder(index)
        self.ids = [list(self.ids[i]) for i in np.asarray(index).tolist()]


class Phi3ForCausalLM(GatedCausalLM):
    """Phi-3 with the head that scores the next token.

    A generation that grows beyond `original_max_position_embeddings` runs its texts once more with the long factors,
    as in transformers: keys that the short ones rotated would not fit.

    Example:
        >>> import numpy as np
        >>> config = Phi3Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0)
        >>> Phi3ForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = Phi3Config
    model_types = ("phi3",)
    neutral = _NEUTRAL
    body_class = Phi3Model
    generation_config = {"pad_token_id": 32000, "bos_token_id": 1, "eos_token_id": 32000}

    def start(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        *,
        capacity: int,
        past_key_values: DecoderState | None = None,
        kv_cache_dtype: str | None = None,
    ) -> tuple[np.ndarray, DecoderState | _ShortTexts]:
        """As `CausalLM.start`.

        Raises:
            ValueError: past_key_values is given, and the model has short factors, whose keys may have to be made again.
        """
        short = self.config.short_texts
        if short is not None and past_key_values is not None:
            raise ValueError("past_key_values is given to a Phi-3 with short and long factors; needed: None")
        options = {"capacity": capacity, "kv_cache_dtype": kv_cache_dtype}
        logits, state = super().start(input_ids, attention_mask, past_key_values=past_key_values, **options)
        if short is None or state.positions.max(initial=0) > short:
            return logits, state
        rows = np.asarray(input_ids)
        tokens = np.ones(rows.shape, bool) if attention_mask is None else np.asarray(attention_mask) != 0
        ids = [row[own].tolist() for row, own in zip(rows, tokens, strict=True)]
        return logits, _ShortTexts(ids, state, options)

    def extend(self, ids: np.ndarray, state: DecoderState | _ShortTexts, every: bool = False) -> np.ndarray:
        """As `CausalLM.extend`.

        Raises:
            NotImplementedError: the model has short factors, whose keys may have to be made again.
        """
        if isinstance(state, _ShortTexts):
            raise NotImplementedError(
                "several tokens at once (speculation, sessions) are not supported for short and long factors"
            )
        return super().extend(ids, state, every)

    def step(self, ids: np.ndarray, state: DecoderState | _ShortTexts) -> np.ndarray:
        if not isinstance(state, _ShortTexts):
            return super().step(ids, state)
        crossing = state.state.positions.max(initial=0) == self.config.short_texts
        if not crossing:
            logits = super().step(ids, state.state)
        for row, token in zip(state.ids, integers("ids", ids, self.config.vocab_size).tolist(), strict=True):
            row.append(token)
        if crossing:
            logits, state.state = self._started_again(state)
        return logits

    def _started_again(self, state: _ShortTexts) -> tuple[np.ndarray, DecoderState]:
        """The logits that follow the texts so far, one of which is a long one now, and a state for the long factors."""
        longest = max(map(len, state.ids))
        ids, tokens = np.zeros((len(state.ids), longest), np.int64), np.zeros((len(state.ids), longest), bool)
        for b, row in enumerate(state.ids):
            ids[b, longest - len(row) :], tokens[b, longest - len(row) :] = row, True
        return super().start(ids, tokens, **state.options)


class Phi3ForSequenceClassification(GatedClassifier):
    """Phi-3 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = Phi3Config(50, 8, 16, 1, num_attention_heads=2, pad_token_id=0, num_labels=3)
        >>> Phi3ForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = Phi3Config
    model_types = ("phi3",)
    neutral = _NEUTRAL
    body_class = Phi3Model
