"""Makes vit/, deit/ and clip/ of this folder: tiny checkpoints of transformers, and what it answers to pictures.

Needs the extra `oracle`. Run it from anywhere:

    python tests/golden/make_vision.py

The tests read the files without torch: models/test_vit.py, models/test_clip.py, test_vision.py (pixels of clip/).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTModel,
)

HERE = Path(__file__).parent
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 12,
    "patch_size": 4,
}
ALL = {"output_attentions": True, "output_hidden_states": True}


def saved(model, name: str):
    """The model with random weights everywhere, written to the folder `name`."""
    for parameter in model.parameters():
        parameter.data = (parameter.data + torch.randn_like(parameter) * 0.1).half().float()
    model.eval().save_pretrained(HERE / name)
    return model


def answers(output) -> dict[str, np.ndarray]:
    """The fields of an output as arrays; tuples are stacked."""
    return {name: (torch.stack(value) if isinstance(value, tuple) else value).numpy() for name, value in output.items()}


@torch.no_grad()
def make_vit() -> None:
    torch.manual_seed(0)
    model = saved(ViTModel(ViTConfig(**SMALL, pooler_output_size=6, attn_implementation="eager")), "vit")
    pixels, wide = torch.randn(2, 3, 12, 12), torch.randn(1, 3, 16, 21)
    stretched = model(wide, interpolate_pos_encoding=True).last_hidden_state
    np.savez_compressed(
        HERE / "vit" / "answers.npz",
        pixel_values=pixels.numpy(),
        wide=wide.numpy(),
        stretched=stretched.numpy(),
        **answers(model(pixels, **ALL)),
    )


@torch.no_grad()
def make_deit() -> None:
    torch.manual_seed(1)
    config = DeiTConfig(**SMALL | {"num_hidden_layers": 1}, qkv_bias=False, num_labels=3, attn_implementation="eager")
    model = saved(DeiTForImageClassificationWithTeacher(config), "deit")
    pixels = torch.randn(2, 3, 12, 12)
    np.savez_compressed(HERE / "deit" / "answers.npz", pixel_values=pixels.numpy(), **answers(model(pixels)))


@torch.no_grad()
def make_clip() -> None:
    torch.manual_seed(2)
    text = {name: value for name, value in SMALL.items() if name not in ("image_size", "patch_size")}
    text |= {
        "vocab_size": 40,
        "max_position_embeddings": 10,
        "eos_token_id": 39,
        "bos_token_id": 38,
        "projection_dim": 8,
    }
    config = CLIPConfig(
        text_config=text, vision_config=SMALL | {"projection_dim": 8}, projection_dim=8, attn_implementation="eager"
    )
    model = saved(CLIPModel(config), "clip")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 12, "width": 12})
    processor.save_pretrained(HERE / "clip")
    picture = np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    pixels = torch.cat([pixels, torch.randn(2, 3, 12, 12)])
    ids = torch.tensor([[38, 5, 6, 39, 39, 39], [38, 7, 8, 9, 3, 39]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    output = model(ids, pixels, mask)
    fields = ("logits_per_image", "text_embeds", "image_embeds")
    np.savez_compressed(
        HERE / "clip" / "answers.npz",
        picture=picture,
        pixel_values=pixels.numpy(),
        input_ids=ids.numpy(),
        attention_mask=mask.numpy(),
        text_state=output.text_model_output.last_hidden_state.numpy(),
        vision_state=output.vision_model_output.last_hidden_state.numpy(),
        **{name: output[name].numpy() for name in fields},
    )


if __name__ == "__main__":
    make_vit()
    make_deit()
    make_clip()
