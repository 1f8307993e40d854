"""Makes attention.npz: what torch.nn.MultiheadAttention answers with each of its options.

Needs the extra `oracle`. Run it from anywhere:

    python tests/golden/make_attention.py

nn/test_attention.py reads it without torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

OPTIONS = {
    "plain": {},
    "widths": {"kdim": 5, "vdim": 7, "bias": False},
    "further": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
}


def main() -> None:
    torch.manual_seed(0)
    padding = torch.arange(6) >= torch.tensor([[6], [4]])
    mask = torch.ones(4, 6, dtype=torch.bool).triu(2)
    answers = {"padding": padding, "mask": mask}
    for name, options in OPTIONS.items():
        module = torch.nn.MultiheadAttention(8, 2, **options).eval()
        for parameter in module.parameters():
            parameter.data += torch.randn_like(parameter) * 0.2
        arrays = [torch.randn(4, 2, 8), torch.randn(6, 2, module.kdim), torch.randn(6, 2, module.vdim)]
        if module.batch_first:
            arrays = [array.transpose(0, 1).contiguous() for array in arrays]
        with torch.no_grad():
            output, weights = module(*arrays, padding, attn_mask=mask, average_attn_weights=False)
        answers |= {f"{name} {i}": array for i, array in enumerate(arrays)}
        answers |= {f"{name} output": output, f"{name} weights": weights}
        answers |= {f"{name} state {key}": tensor for key, tensor in module.state_dict().items()}
    path = Path(__file__).parent / "attention.npz"
    np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in answers.items()})


if __name__ == "__main__":
    main()
