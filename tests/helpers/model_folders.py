"""Model folders made on the spot: random weights written with safetensors, and a tiny tokenizer.

test_checkpoint, test_text, models/ and the golden files' script build what they read with these.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TINY_BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}

# [PAD] must be 0, as in real vocabularies.
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdeinorst"),
]
WORDS += ["the", "cat", "sat", "on", "mat", "dog", "ran", "far", "The", "Cat", ".", ",", "!", "query", ":"]
SENTENCES = [
    "the cat sat on the mat.",
    "",
    "dog",
    "The Cat ran, far!",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
]


def bert_tensors(
    config: dict = TINY_BERT, pooler: bool = True, prefix: str = "", seed: int = 0
) -> dict[str, np.ndarray]:
    """Random weights under the names of a Hugging Face checkpoint."""
    rng = np.random.default_rng(seed)
    h, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], h),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], h),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], h),
        "embeddings.LayerNorm.weight": (h,),
        "embeddings.LayerNorm.bias": (h,),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for name, rows, columns in [
            *((f"{layer}.attention.self.{part}", h, h) for part in ("query", "key", "value")),
            (f"{layer}.attention.output.dense", h, h),
            (f"{layer}.intermediate.dense", inner, h),
            (f"{layer}.output.dense", h, inner),
        ]:
            shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
        for name in (f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"):
            shapes |= {f"{name}.weight": (h,), f"{name}.bias": (h,)}
    if pooler:
        shapes |= {"pooler.dense.weight": (h, h), "pooler.dense.bias": (h,)}
    tensors = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) * (0.3 if len(shape) == 2 else 0.1)
        tensors[prefix + name] = (values + (1 if name.endswith("LayerNorm.weight") else 0)).astype(np.float32)
    return tensors


def write_bert(folder: Path, config: dict = TINY_BERT, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """config.json and model.safetensors in `folder`, which is made."""
    import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors needs
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    save_file(bert_tensors(config) if tensors is None else tensors, folder / "model.safetensors")
    return folder


def write_tokenizer(folder: Path, lowercase: bool = True, config: dict | None = None) -> None:
    """tokenizer.json (with a padding and a truncation that must not have an effect) and tokenizer_config.json."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))],
    )
    tokenizer.add_special_tokens(WORDS[:5])
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(6)
    tokenizer.save(str(folder / "tokenizer.json"))
    default = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, "model_max_length": 20}
    write_json(folder / "tokenizer_config.json", default if config is None else config)


def write_sentence_model(
    folder: Path, pooling: dict | None = None, normalize: bool = False, modules: list | None = None, **files: dict
) -> Path:
    """A folder in the layout of sentence-transformers; `files` gives the content of name.json for each name."""
    write_bert(folder)
    write_tokenizer(folder)
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    paths = ["", "1_Pooling", "2_Normalize"]
    if modules is None:
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
        ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    mean = {"word_embedding_dimension": TINY_BERT["hidden_size"], "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", mean if pooling is None else pooling)
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    return folder


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
