"""Makes pipelines.json of this folder: what transformers' pipelines answer with the models of pipeline_folders.

Needs the extra `oracle`. Run it from anywhere:

    python tests/golden/make_pipelines.py

The tests in pipelines/ read the file without torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from pipeline_folders import SPECIAL, TEXTS, write_head  # noqa: E402


def pipeline(task: str, folder: Path, architecture: str, **config):
    write_head(folder, architecture, **config)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), model_max_length=20, **SPECIAL
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    model = getattr(transformers, f"BertFor{architecture}").from_pretrained(folder)
    return transformers.pipeline(task, model=model, tokenizer=tokenizer, dtype=torch.float32)


def plain(value):
    """Numbers of NumPy as Python's."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value.item() if hasattr(value, "item") else value


def main() -> None:
    answers = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classify = pipeline("text-classification", folder / "a", "SequenceClassification")
        answers["classify"] = classify(TEXTS, top_k=None, truncation=True)
        pairs = [{"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": TEXTS[4], "text_pair": TEXTS[0]}]
        answers["classify pairs"] = classify(pairs)
        several = pipeline(
            "text-classification", folder / "b", "SequenceClassification", problem_type="multi_label_classification"
        )
        answers["classify several"] = several(TEXTS, top_k=2, truncation=True)
        tag = pipeline("token-classification", folder / "c", "TokenClassification")
        for strategy in ("none", "simple", "first", "average", "max"):
            answers[f"tag {strategy}"] = [tag(text, aggregation_strategy=strategy) for text in TEXTS]
        long = " ".join(TEXTS)
        answers["tag stride"] = tag(long, aggregation_strategy="simple", stride=5)
        fill = pipeline("fill-mask", folder / "d", "MaskedLM")
        answers["fill"] = fill(["the [MASK] sat on the mat.", "[MASK] ran [MASK]!"], top_k=3)
        answers["fill targets"] = fill("the [MASK] sat.", targets=["cat", "dog"])
    (HERE / "pipelines.json").write_text(json.dumps(plain(answers), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
