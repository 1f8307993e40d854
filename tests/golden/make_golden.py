"""Makes the files of this folder: small inputs and what torch, transformers and sentence-transformers answer to them.

Needs the extra `oracle`, and for minilm.npz the weights package (see transformer_fast.weights). Run it from anywhere:

    python tests/golden/make_golden.py

The tests read the files without torch: nn/test_transformer.py (nn.npz), models/test_bert.py (bert/), test_text.py
(sentences.npz, minilm.npz).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertForMaskedLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from model_folders import TINY_BERT, write_sentence_model  # noqa: E402

from transformer_fast.weights import find_minilm  # noqa: E402

SENTENCES = [
    "the cat sat on the mat.",
    "",
    "The Cat ran, far!",
    "dog",
    "a text that is a good deal longer than the limit of the tokenizer and therefore is cut off",
    "Unknown: \u65e5\u672c\u8a9e, na\u00efve caf\u00e9",
]
POOLINGS = {
    "mean": {"pooling_mode_mean_tokens": True},
    "cls": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    "max": {"pooling_mode": "max"},
    "all": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True},
}
PROMPT = "query: "


def numpy(state):
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


def make_nn() -> None:
    torch.manual_seed(0)
    options = {"dropout": 0.0, "activation": "gelu"}
    layer = torch.nn.TransformerEncoderLayer(16, 2, 24, **options).eval()
    for parameter in layer.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    pre = torch.nn.TransformerEncoderLayer(16, 2, 24, norm_first=True, **options).eval()
    pre.load_state_dict(layer.state_dict())
    x, memory = torch.randn(7, 3, 16), torch.randn(5, 3, 16)
    causal = torch.ones(7, 7, dtype=torch.bool).triu(1)
    padding = torch.arange(7) >= torch.tensor([[7], [4], [1]])
    memory_padding = torch.arange(5) >= torch.tensor([[5], [2], [1]])
    with torch.no_grad():
        cross, cross_weights = layer.self_attn(x, memory, memory, key_padding_mask=memory_padding)
        answers = {
            "post": layer(x),
            "pre": pre(x),
            "causal": layer(x, src_mask=causal),
            "padding": layer(x, src_key_padding_mask=padding),
            "cross": cross,
            "cross_weights": cross_weights,
        }
    inputs = {
        "x": x,
        "memory": memory,
        "causal_mask": causal,
        "padding_mask": padding,
        "memory_padding_mask": memory_padding,
    }
    weights = {f"layer.{name}": tensor for name, tensor in layer.state_dict().items()}
    np.savez_compressed(HERE / "nn.npz", **numpy(weights | inputs | answers))


def make_bert() -> None:
    """A folder as transformers saves it: a model with a head, so with the prefix `bert.` and without a pooler."""
    torch.manual_seed(0)
    sizes = {
        name: TINY_BERT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    }
    config = BertConfig(**sizes, intermediate_size=40, max_position_embeddings=16, hidden_act="gelu_new")
    model = BertForMaskedLM(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    folder = HERE / "bert"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    ids = torch.randint(0, config.vocab_size, (4, 9))
    types = torch.randint(0, 2, (4, 9))
    mask = torch.ones(4, 9, dtype=torch.int64)
    mask[1, 5:], mask[2, :3], mask[3, [2, 5, 6]] = 0, 0, 0
    with torch.no_grad():
        states = model.bert(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    np.savez_compressed(folder / "answers.npz", **numpy(inputs | {"last_hidden_state": states}))


def make_sentences() -> None:
    answers = {}
    for name, pooling in POOLINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            config = {"word_embedding_dimension": TINY_BERT["hidden_size"], **pooling}
            encoder = SentenceTransformer(str(write_sentence_model(Path(folder) / "model", config)), device="cpu")
            answers[name] = encoder.encode(SENTENCES)
            answers[f"{name}_prompt"] = encoder.encode(SENTENCES, prompt=PROMPT)
            encoder.set_pooling_include_prompt(False)
            answers[f"{name}_without_prompt"] = encoder.encode(SENTENCES, prompt=PROMPT)
    np.savez_compressed(HERE / "sentences.npz", sentences=np.array(SENTENCES), **answers)


def make_minilm() -> None:
    texts = [
        "A man is eating a piece of bread.",
        "",
        "How do I read a compressed file?",
        "Na\u00efve caf\u00e9s in \u6771\u4eac serve \U0001f363!",
        "tree " * 400,
    ]
    encoder = SentenceTransformer(str(find_minilm(verify=True)), device="cpu")
    np.savez_compressed(HERE / "minilm.npz", sentences=np.array(texts), embeddings=encoder.encode(texts))


if __name__ == "__main__":
    make_nn()
    make_bert()
    make_sentences()
    make_minilm()
    sizes = {path.name: path.stat().st_size for path in sorted(HERE.rglob("*")) if path.is_file()}
    print(json.dumps(sizes, indent=1), sum(sizes.values()))
