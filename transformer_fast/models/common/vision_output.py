"""Outputs of models of pictures, which `output` does not have: classes of pictures, CLIP's embeddings.

`families.vit` and `families.clip` return them. A new kind of output is a new dataclass that derives from `ModelOutput`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from transformer_fast.models.common.output import BaseModelOutputWithPooling, ModelOutput


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
