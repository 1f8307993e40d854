"""`RotaryConfig`: the fields and rules that configs of models with rotary positions share.

`decoder_blocks.GatedConfig`, `layer_norm_blocks.PlainConfig` and `nomic_bert.NomicBertConfig` derive from it. A way in
which families say how positions are rotated goes here: a method that they override.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformer_fast.models.common.config import ACTIVATIONS, Labels, check_fields
from transformer_fast.nn import RotaryEmbedding


@dataclass(frozen=True)
class RotaryConfig(Labels):
    """The first fields of config.json that the families share, and the rules of the further ones.

    A class that derives from it has the fields max_position_embeddings, rope_scaling and rope_parameters, and either
    rope_theta or its own `rotations`; if it has them, num_key_value_heads, head_dim and layer_types are followed.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32

    # A decoder is one, whatever these say.
    without_effect = ("is_decoder", "is_encoder_decoder", "add_cross_attention")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.activation not in ACTIVATIONS:
            field = "hidden_act" if hasattr(self, "hidden_act") else "hidden_activation"
            raise ValueError(f"{field} is {self.activation!r}; supported: {', '.join(ACTIVATIONS)}")
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"num_key_value_heads is {self.kv_heads}; "
                f"needed: a divisor of num_attention_heads={self.num_attention_heads}"
            )
        if getattr(self, "head_dim", None) is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}; "
                f"needed without head_dim: a divisor of hidden_size={self.hidden_size}"
            )
        if self.rotary_field is None and self.width_of_head % 2:
            made = "" if getattr(self, "head_dim", None) else " (hidden_size / num_attention_heads)"
            raise ValueError(f"head_dim is {self.width_of_head}{made}; needed: an even number, for rotary positions")
        windows = getattr(self, "layer_types", None)
        if windows is not None and (
            len(windows) != self.num_hidden_layers or not set(windows) <= {"full_attention", "sliding_attention"}
        ):
            raise ValueError(
                f"layer_types is {windows!r}; needed: full_attention or sliding_attention for each of the "
                f"{self.num_hidden_layers} layers"
            )
        for name in self.rotations():
            self.rotation(name)

    @property
    def activation(self) -> str:
        return self.hidden_act

    @property
    def kv_heads(self) -> int:
        heads = getattr(self, "num_key_value_heads", None)
        return self.num_attention_heads if heads is None else heads

    @property
    def width_of_head(self) -> int:
        width = getattr(self, "head_dim", None)
        return self.hidden_size // self.num_attention_heads if width is None else width

    @property
    def rotary_field(self) -> str | None:
        """The field that says which share of a head's columns is rotated; None: the family rotates all."""
        return "partial_rotary_factor" if hasattr(self, "partial_rotary_factor") else None

    def rotations(self) -> Mapping[str, tuple[float, dict | None]]:
        """Name of a rotation -> its base and its scaling; layers name theirs.

        Where a file has both, rope_scaling takes the place of the whole rope_parameters, as in transformers.
        """
        return {"all": (self.rope_theta, self.rope_scaling or self.rope_parameters)}

    def rotation(self, name: str) -> RotaryEmbedding:
        base, scaling = self.rotations()[name]
        width = self._rotated_columns(scaling or {})
        try:
            return RotaryEmbedding(width, base, scaling=scaling, max_position_embeddings=self.max_position_embeddings)
        except (TypeError, ValueError) as error:
            fields = [field for field in ("rope_scaling", "rope_parameters") if getattr(self, field)]
            raise ValueError(f"{' and '.join(fields) or 'rope_theta'}: {error}") from None

    def _rotated_columns(self, scaling: Mapping[str, object]) -> int:
        """How many of a head's columns are rotated; what the scaling says goes before the config's field."""
        field = self.rotary_field
        share = scaling.get("partial_rotary_factor", 1 if field is None else getattr(self, field))
        if field is None:
            if share != 1:
                raise ValueError(f"partial_rotary_factor is {share!r}; needed: 1")
            return self.width_of_head
        number = type(share) in (int, float) and 0 < share <= 1
        columns = int(self.width_of_head * share) if number else 0
        if columns == 0 or columns % 2:
            told = field if "partial_rotary_factor" not in scaling else "partial_rotary_factor"
            raise ValueError(
                f"{told} is {share!r}; needed: a share of the {self.width_of_head} columns of a head (head_dim, or "
                "hidden_size / num_attention_heads) that is an even number of them"
            )
        return columns
