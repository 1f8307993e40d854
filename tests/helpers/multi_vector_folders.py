"""Tiny folders of multi-vector encoders in the layouts of sentence-transformers, PyLate and Stanford's ColBERT.

oracle/test_multi_vector.py compares them with sentence-transformers, pipelines/test_multi_vector.py reads them alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from model_folders import TINY_BERT, bert_tensors, write_bert, write_json
from pipeline_folders import write_head

H, DIM = TINY_BERT["hidden_size"], 6
EXPANSION = {"strategy": "fixed", "attend": False, "length": 9}


def projection(seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((DIM, H)).astype(np.float32)


def write_dense(folder: Path, **config) -> None:
    from safetensors.numpy import save_file

    folder.mkdir()
    identity = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    write_json(folder / "config.json", {"in_features": H, "out_features": DIM, **identity, **config})
    save_file({"linear.weight": projection()}, folder / "model.safetensors")


def _write_modules(folder: Path, kinds: list[str]) -> None:
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": _TYPES[kind]}
        for i, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)


_TYPES = {
    "Transformer": "sentence_transformers.models.Transformer",
    "Dense": "pylate.models.Dense.Dense",
    "Pooling": "sentence_transformers.models.Pooling",
    "Normalize": "sentence_transformers.models.Normalize",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    "HierarchicalTokenPooling": (
        "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"
    ),
}


def write_multi_vector(folder: Path, mask: dict | None = None, pooling: dict | None = None, **files: dict) -> Path:
    """As sentence-transformers 6: all modules by name; `files` gives the content of name.json for each name."""
    write_head(folder, "MaskedLM")
    tokens = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    write_dense(folder / "1_Dense", **tokens)
    kinds = ["Transformer", "Dense", "MultiVectorMask", "Normalize"]
    contents = {"2_MultiVectorMask": mask or {"skiplist_words": [",", "."]}, "3_Normalize": tokens}
    if pooling is not None:
        kinds.append("HierarchicalTokenPooling")
        contents["4_HierarchicalTokenPooling"] = pooling
    _write_modules(folder, kinds)
    for name, content in contents.items():
        (folder / name).mkdir()
        write_json(folder / name / "config.json", content)
    settings = {"model_type": "MultiVectorEncoder", "similarity_fn_name": None, "prompts": {}}
    lengths = {"max_seq_length": 20, "query_expansion": EXPANSION}
    for name, content in {"config_sentence_transformers": settings, "sentence_bert_config": lengths, **files}.items():
        write_json(folder / f"{name}.json", content)
    return folder


def write_pylate(folder: Path, config: dict, markers: tuple[str, ...] = (), pooled: bool = False) -> Path:
    """Transformer and Dense; `config` is that of config_sentence_transformers.json, `markers` are added tokens."""
    write_head(folder, "MaskedLM")
    write_dense(folder / ("2_Dense" if pooled else "1_Dense"))
    _write_modules(folder, ["Transformer", "Pooling", "Dense", "Normalize"] if pooled else ["Transformer", "Dense"])
    if pooled:
        (folder / "1_Pooling").mkdir()
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": H})
    write_json(folder / "config_sentence_transformers.json", config)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    _add_words(folder, ("[unused0]", "[unused1]"))
    if markers:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_tokens(list(markers))
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_colbert(folder: Path, metadata: dict | None) -> Path:
    """A BERT of the architecture HF_ColBERT whose file holds the projection, and artifact.metadata."""
    write_head(folder, "MaskedLM")
    tensors = bert_tensors(pooler=False, prefix="bert.") | {"linear.weight": projection()}
    write_bert(folder, TINY_BERT | {"architectures": ["HF_ColBERT"]}, tensors)
    _add_words(folder, ("[unused0]", "[unused1]"))
    if metadata is not None:
        (folder / "artifact.metadata").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


def _add_words(folder: Path, words: tuple[str, ...]) -> None:
    """Words of the vocabulary that the tokenizer takes apart, as BERT's [unused0]."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary |= {word: len(vocabulary) + i for i, word in enumerate(words)}
    write_json(folder / "tokenizer.json", content)
