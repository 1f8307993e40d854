"""Tiny folders of sparse encoders: SPLADE, weights of tokens, both behind a Router, and a SparseAutoEncoder.

pipelines/test_sparse_encoder.py and pipelines/test_processes.py read them.
"""

from __future__ import annotations

import numpy as np
from model_folders import TINY_BERT, WORDS, write_json, write_sentence_model, write_tokenizer
from pipeline_folders import write_head

H, V = TINY_BERT["hidden_size"], TINY_BERT["vocab_size"]
SPLADE = {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": V}
STATIC = np.linspace(-0.5, 1.5, len(WORDS)).astype(np.float32)


def modules_json(*kinds):
    return [{"idx": i, "name": str(i), "path": path, "type": f"x.{kind}"} for i, (path, kind) in enumerate(kinds)]


def write_splade(folder, pooling=SPLADE, more=(), **files):
    """A masked-language model and its SpladePooling; files: the content of name.json for each name."""
    write_head(folder, "MaskedLM")
    write_json(folder / "modules.json", modules_json(("", "Transformer"), ("1_SpladePooling", "SpladePooling"), *more))
    (folder / "1_SpladePooling").mkdir()
    write_json(folder / "1_SpladePooling" / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"transformer_task": "fill-mask"})
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    return folder


def write_static(folder, weight=STATIC, **config):
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    write_tokenizer(folder)
    write_json(folder / "config.json", {"frozen": True, **config})
    if weight is not None:
        save_file({"weight": weight}, folder / "model.safetensors")
    return folder


def write_router(folder):
    """Queries by weights of tokens, documents by a model."""
    write_splade(folder / "document_0_Transformer", {})
    (folder / "document_0_Transformer" / "1_SpladePooling").rename(folder / "document_1_SpladePooling")
    write_static(folder / "query_0_SparseStaticEmbedding")
    write_json(folder / "modules.json", modules_json(("", "Router")))
    names = {
        "query": ["query_0_SparseStaticEmbedding"],
        "document": ["document_0_Transformer", "document_1_SpladePooling"],
    }
    types = {name: f"x.{name.rpartition('_')[2]}" for modules in names.values() for name in modules}
    router = {"types": types, "structure": names, "parameters": {"default_route": "document"}}
    write_json(folder / "router_config.json", router)
    return folder


def write_csr(folder, **config):
    from safetensors.numpy import save_file

    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_SparseAutoEncoder", "SparseAutoEncoder")]
    write_sentence_model(folder, modules=modules_json(*kinds))
    (folder / "2_SparseAutoEncoder").mkdir()
    sizes = {"input_dim": H, "hidden_dim": 40, "k": 5, "k_aux": 7, "normalize": False, "dead_threshold": 30}
    write_json(folder / "2_SparseAutoEncoder" / "config.json", {**sizes, **config})
    rng = np.random.default_rng(0)
    shapes = {"pre_bias": (H,), "latent_bias": (40,), "encoder.weight": (40, H)}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["stats_last_nonzero"] = np.zeros(40, np.int64)
    save_file(tensors, folder / "2_SparseAutoEncoder" / "model.safetensors")
    return folder, tensors
