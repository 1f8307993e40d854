"""Folders that the pipelines read: BERT with a head and random weights, and a tiny tokenizer that knows its tokens.

test files in pipelines/ and golden/make_pipelines.py use it; the weights are the same wherever NumPy is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from model_folders import TINY_BERT, bert_tensors, write_bert, write_tokenizer

LABELS = ["O", "B-PER", "I-PER", "LOC"]
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
TEXTS = [
    "the cat sat on the mat.",
    "The Cat ran, far!",
    "",
    "a dog on a rotten mat; it is far and the cat is near",
    "unknown: \u65e5\u672c, caf\u00e9 dog",
]
QUESTIONS = ["the dog?", "far", "the cat ran on"]


def write_head(folder: Path, task: str, labels: int = len(LABELS), **config) -> Path:
    """A tiny BertFor<task> and its tokenizer in `folder`, which is made; config: further fields of config.json."""
    h, V = TINY_BERT["hidden_size"], TINY_BERT["vocab_size"]
    rng = np.random.default_rng(7)
    shapes = {
        "SequenceClassification": {"classifier.weight": (labels, h), "classifier.bias": (labels,)},
        "TokenClassification": {"classifier.weight": (labels, h), "classifier.bias": (labels,)},
        "QuestionAnswering": {"qa_outputs.weight": (2, h), "qa_outputs.bias": (2,)},
        "MaskedLM": {
            "cls.predictions.transform.dense.weight": (h, h),
            "cls.predictions.transform.dense.bias": (h,),
            "cls.predictions.transform.LayerNorm.weight": (h,),
            "cls.predictions.transform.LayerNorm.bias": (h,),
            "cls.predictions.bias": (V,),
        },
    }[task]
    tensors = bert_tensors(pooler=task == "SequenceClassification", prefix="bert.")
    tensors |= {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    content = {**TINY_BERT, "architectures": [f"BertFor{task}"], **config}
    if "Classification" in task:
        names = LABELS[:labels]
        content |= {"id2label": {str(i): name for i, name in enumerate(names)}}
        content |= {"label2id": {name: i for i, name in enumerate(names)}}
    write_bert(folder, content, tensors)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 20, "model_input_names": names}
    write_tokenizer(folder, config=settings | SPECIAL)
    return folder
