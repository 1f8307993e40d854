"""A folder of each model of `published_models`: random weights, small sizes, the files that its family's folders have.

tests/pipelines/test_published_models.py and `hub_models` write them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from model_folders import write_json, write_tokenizer
from published_models import MODELS

from transformer_fast import models, nn
from transformer_fast.files.folder import open_source

WIDTH, DENSE = 24, 7


def write_module(folder: Path, number: int, kind: str) -> dict:
    """The files of a module after the Transformer, and its entry in modules.json."""
    from safetensors.numpy import save_file

    name, _, pooling = kind.partition(":")
    path = f"{number}_{name}"
    (folder / path).mkdir()
    if name == "Pooling":
        modes = {
            f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("cls_token", "mean_tokens", "max_tokens")
        }
        write_json(folder / path / "config.json", {"word_embedding_dimension": WIDTH} | modes)
    if name == "Dense":
        config = {"in_features": WIDTH, "out_features": DENSE, "bias": True}
        write_json(folder / path / "config.json", config | {"activation_function": "torch.nn.modules.activation.Tanh"})
        weight = np.random.default_rng(0).standard_normal((DENSE, WIDTH)).astype(np.float32)
        save_file({"linear.weight": weight, "linear.bias": weight[:, 0].copy()}, folder / path / "model.safetensors")
    return {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}


def write_folder(folder: Path, name: str) -> Path:
    """A folder of the model with random weights, under the names that its family's folders have."""
    published = MODELS[name]
    folder.mkdir()
    write_json(folder / "config.json", published.fields)
    nn.manual_seed(0)
    made = models.find_class(open_source(folder), head=published.pipeline == "predict")
    config = made.read_config(dict(published.fields), folder / "config.json")
    made(config).save_pretrained(folder)
    write_json(folder / "config.json", published.fields)
    write_tokenizer(folder)
    if published.modules is not None:
        kinds = enumerate(published.modules, 1)
        first = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
        write_json(folder / "modules.json", [first, *(write_module(folder, i, kind) for i, kind in kinds)])
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": False})
    return folder
