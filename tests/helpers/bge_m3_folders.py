"""A tiny folder like bge-m3's: an XLM-R, its tokenizer, and the two layers beside it, all random.

oracle/test_bge_m3.py compares it with a twin of torch, pipelines/test_bge_m3.py reads it alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from model_folders import TINY_BERT, WORDS, bert_tensors, write_bert, write_json

H, DIM = TINY_BERT["hidden_size"], 10
_NAMES = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
SPECIAL = {f"{name}_token": token for name, token in _NAMES.items()}
CONFIG = TINY_BERT | {
    "model_type": "xlm-roberta",
    "architectures": ["XLMRobertaModel"],
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "max_position_embeddings": 34,
}


def write_bge_m3(folder: Path) -> Path:
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    write_bert(folder, CONFIG, bert_tensors(CONFIG, pooler=True))
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *WORDS[5:]]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(words[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32} | SPECIAL
    write_json(folder / "tokenizer_config.json", settings)
    rng = np.random.default_rng(5)
    for name, rows in (("sparse_linear", 1), ("colbert_linear", DIM)):
        tensors = {"weight": rng.standard_normal((rows, H)), "bias": rng.standard_normal(rows)}
        save_file({key: t.astype(np.float32) for key, t in tensors.items()}, folder / f"{name}.safetensors")
    return folder
