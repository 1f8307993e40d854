"""Makes layers.npz: small torch layers, their inputs, and what they answer.

Needs torch. Run it from anywhere:

    python tests/golden/make_layers.py

nn/test_transformer.py, nn/test_recurrent.py and nn/test_seq2seq.py read the file without torch.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
STEPS = 8


def state(prefix, module):
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def shaken(module):
    """Biases and norms away from 0 and 1."""
    for parameter in module.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return module.eval()


def make_transformer(answers):
    options = {"dropout": 0.0, "activation": "gelu"}
    post = shaken(torch.nn.Transformer(8, 2, 2, 2, 12, **options))
    pre = torch.nn.Transformer(8, 2, 2, 2, 12, norm_first=True, **options).eval()
    pre.load_state_dict(post.state_dict())
    src, tgt = torch.randn(5, 3, 8), torch.randn(4, 3, 8)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [1]])
    masks = {
        "tgt_mask": torch.nn.Transformer.generate_square_subsequent_mask(4),
        "src_key_padding_mask": padding,
        "memory_key_padding_mask": padding,
    }
    answers |= state("transformer", post) | {"src": src, "tgt": tgt} | masks
    answers |= {"post": post(src, tgt, **masks), "pre": pre(src, tgt, **masks)}
    nested = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **options), 2, torch.nn.LayerNorm(8)
    ).eval()
    nested.load_state_dict(post.encoder.state_dict())
    answers["nested"] = nested(src.transpose(0, 1), src_key_padding_mask=padding)


def make_greedy(answers):
    """Ids from recomputing everything at each step: d_model 8, 20 words, sinusoids, embeddings times sqrt(8)."""
    model = shaken(torch.nn.Transformer(8, 2, 1, 2, 12, dropout=0.0, batch_first=True))
    words = shaken(torch.nn.Embedding(20, 8))
    output = shaken(torch.nn.Linear(8, 20))
    angles = torch.arange(32)[:, None] / 10000 ** (torch.arange(0, 8, 2) / 8)
    table = torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(32, 8)

    def embed(ids):
        return words(ids) * math.sqrt(8) + table[: ids.shape[1]]

    source = torch.randint(3, 20, (3, 6))
    padding = torch.arange(6) >= torch.tensor([[6], [4], [2]])
    target = torch.ones(3, 1, dtype=torch.int64)
    for _ in range(STEPS):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        options = {"tgt_mask": mask, "src_key_padding_mask": padding, "memory_key_padding_mask": padding}
        logits = output(model(embed(source), embed(target), **options))
        target = torch.cat([target, logits[:, -1:].argmax(-1)], dim=1)
    answers |= state("greedy.transformer", model)
    answers |= state("greedy.source_embedding", words) | state("greedy.target_embedding", words)
    answers |= state("greedy.output_projection", output)
    answers |= {"source": source, "source_padding": padding, "target": target, "logits": logits}


def make_recurrent(answers):
    x, lengths = torch.randn(5, 3, 4), torch.tensor([2, 5, 3])
    answers |= {"x": x, "lengths": lengths}
    cells = {
        "lstm": torch.nn.LSTM(4, 6, num_layers=2, bidirectional=True),
        "projected": torch.nn.LSTM(4, 6, proj_size=3),
        "gru": torch.nn.GRU(4, 6, num_layers=2, bidirectional=True),
    }
    for name, cell in cells.items():
        shaken(cell)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        padded, last = cell(packed)
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(padded)
        last = last if isinstance(last, tuple) else (last,)
        answers |= state(name, cell) | {f"{name}_whole": cell(x)[0], f"{name}_output": output}
        answers |= {f"{name}_last_{i}": tensor for i, tensor in enumerate(last)}


if __name__ == "__main__":
    torch.manual_seed(0)
    found = {}
    with torch.no_grad():
        make_transformer(found)
        make_greedy(found)
        make_recurrent(found)
    np.savez_compressed(HERE / "layers.npz", **{name: tensor.numpy() for name, tensor in found.items()})
    print((HERE / "layers.npz").stat().st_size)
