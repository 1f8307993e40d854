"""Makes position.npz: what transformers answers for rotary tables of every scaling, T5's buckets and ALiBi's slopes.

Needs the extra `oracle`. Run it from anywhere:

    python tests/golden/make_position.py

nn/test_position.py reads it without torch; it takes the scalings from there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from rope_cases import MAX_POSITION, POSITIONS, SCALINGS  # noqa: E402


def main() -> None:
    answers = {}
    for name, scaling in SCALINGS.items():
        config = LlamaConfig(
            hidden_size=64, num_attention_heads=2, max_position_embeddings=MAX_POSITION, rope_parameters=dict(scaling)
        )
        cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(POSITIONS)[None])
        answers[f"cos {name}"], answers[f"sin {name}"] = cos[0, :, :16].numpy(), sin[0, :, :16].numpy()
    relative = torch.arange(-200, 200)
    for both in (True, False):
        answers[f"buckets {both}"] = T5Attention._relative_position_bucket(relative, both, 32, 128).numpy()
    for heads in (1, 8, 12, 20):
        answers[f"slopes {heads}"] = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1].numpy()
    answers["image"] = build_2d_sinusoidal_position_embedding(3, 4, 8).numpy()
    np.savez_compressed(HERE / "position.npz", **answers)


if __name__ == "__main__":
    main()
