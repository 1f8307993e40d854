"""Small models with random weights in place of those on the Hugging Face hub that README and docs/ name.

tests/project/test_page_code.py runs the code of pages on them. A page that names another model needs a line in
`MODELS`: its name, and how a folder of this kind is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from chat_templates import HERMES_CALLS
from decoder_cases import write, write_byte_gpt2
from gguf_files import metadata_of, tensors_in_gguf, tensors_of_llama, write_gguf
from model_folders import write_json, write_sentence_model
from multi_vector_folders import write_multi_vector
from pipeline_folders import write_head
from published_folders import write_folder
from sparse_folders import write_splade
from text_decoders import TOKENS, change_json, write_model, write_modules

_CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
# Of a GGUF file whose tokens are the bytes.
_LLAMA = {"model_type": "llama", "vocab_size": 257, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
_LLAMA |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 200}


def _gpt2(folder: Path, **settings: str) -> Path:
    folder.mkdir(parents=True)
    write_byte_gpt2(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **settings})
    return folder


def _chat(folder: Path) -> Path:
    """With a template that knows tools, and an end of answers."""
    _gpt2(folder, chat_template=HERMES_CALLS)
    write_json(folder / "generation_config.json", {"eos_token_id": 10})
    return folder


def _embedder(folder: Path) -> Path:
    """As Qwen3-Embedding's: the vector of the last token."""
    return write_modules(write_model(folder, "qwen3"), {"Pooling": {"pooling_mode_lasttoken": True}, "Normalize": None})


def _scorer(folder: Path, name: str) -> Path:
    """A language model whose vocabulary has the words by which it scores, and room for the prompt."""
    write_model(folder, name, "ForCausalLM", max_position_embeddings=400, vocab_size=len(TOKENS))
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["Yes"] = vocabulary.pop("no" if name == "gemma" else "Cat")
    write_json(folder / "tokenizer.json", content)
    change_json(folder / "tokenizer_config.json", model_max_length=400, bos_token="[CLS]")
    return folder


def _jina_v3(folder: Path) -> Path:
    write_folder(folder, "jinaai/jina-embeddings-v3")
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"retrieval.query": "query: "}})
    return folder


def write_llama_gguf(path: Path) -> Path:
    """A Llama of one layer with a tokenizer of bytes and a chat template, in one file."""
    from tokenizers.pre_tokenizers import ByteLevel

    keys = metadata_of(_LLAMA) | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    keys |= {"tokenizer.ggml.tokens": [*sorted(ByteLevel.alphabet()), "aa"], "tokenizer.ggml.merges": ["a a"]}
    keys["tokenizer.chat_template"] = _CHAT
    return write_gguf(path, "llama", keys, tensors_in_gguf(_LLAMA, tensors_of_llama(_LLAMA)))


# Name -> what writes a folder of that kind, which is not there yet.
MODELS: dict[str, Callable[[Path], Path]] = {
    "sentence-transformers/all-MiniLM-L6-v2": write_sentence_model,
    "all-MiniLM-L6-v2": write_sentence_model,
    "Qwen/Qwen3-Embedding-0.6B": _embedder,
    "jinaai/jina-embeddings-v3": _jina_v3,
    "naver/splade-cocondenser-ensembledistil": write_splade,
    "colbert-ir/colbertv2.0": write_multi_vector,
    "cross-encoder/ms-marco-MiniLM-L6-v2": partial(write_head, task="SequenceClassification", labels=1),
    "Qwen/Qwen3-Reranker-0.6B": partial(_scorer, name="qwen3"),
    "BAAI/bge-reranker-v2-gemma": partial(_scorer, name="gemma"),
    "openai-community/gpt2": _gpt2,
    "Qwen/Qwen2.5-0.5B-Instruct": _chat,
    "a-folder": partial(write, case="llama"),
    "dslim/bert-base-NER": partial(write_head, task="TokenClassification"),
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": partial(write_head, task="SequenceClassification"),
    "deepset/minilm-uncased-squad2": partial(write_head, task="QuestionAnswering"),
    "google-bert/bert-base-uncased": partial(write_head, task="MaskedLM"),
}
