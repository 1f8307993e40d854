"""What a model call returns: the fields of transformers' outputs, by attribute, by name and by place.

Every family returns one of the classes below; a new kind of output is a new dataclass that derives from `ModelOutput`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np


class ModelOutput:
    """As transformers.utils.ModelOutput: o.field, o["field"], o[0], keys(), values(), items(), to_tuple().

    Fields that are None are there as attributes only.
    """

    def keys(self) -> list[str]:
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]

    def values(self) -> list[Any]:
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return list(zip(self.keys(), self.values(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key!r}; this output has {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclasses.dataclass(eq=False)
class BaseModelOutputWithPooling(ModelOutput):
    """last_hidden_state (B, L, h); pooler_output (B, h), or None where the model has no pooler.

    hidden_states: (B, L, h) for the embeddings and each layer; attentions: (B, H, L, L) for each layer; if asked for.
    """

    last_hidden_state: np.ndarray
    pooler_output: np.ndarray | None = None
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class ImageClassifierOutput(ModelOutput):
    """logits (B, labels); hidden_states and attentions as in `BaseModelOutputWithPooling`."""

    logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class TwoHeadedImageClassifierOutput(ModelOutput):
    """logits (B, labels), the mean of those of DeiT's class token and of its distillation token."""

    logits: np.ndarray
    cls_logits: np.ndarray
    distillation_logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class CLIPTextModelOutput(ModelOutput):
    """text_embeds (B, p), the projection of the text's end-of-text token; the rest as in the model without it."""

    text_embeds: np.ndarray
    last_hidden_state: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class CLIPVisionModelOutput(ModelOutput):
    """image_embeds (B, p), the projection of the picture's class token; the rest as in the model without it."""

    image_embeds: np.ndarray
    last_hidden_state: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class CLIPOutput(ModelOutput):
    """logits_per_image (Bi, Bt) and its transposed, of text_embeds (Bt, p) and image_embeds (Bi, p), of length 1."""

    logits_per_image: np.ndarray
    logits_per_text: np.ndarray
    text_embeds: np.ndarray
    image_embeds: np.ndarray
    text_model_output: BaseModelOutputWithPooling
    vision_model_output: BaseModelOutputWithPooling
