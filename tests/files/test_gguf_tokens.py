"""gguf_tokens.py: texts become the tokens of the tokenizer that the file's metadata was made of."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from gguf_files import write_gguf

from transformer_fast import passages
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf_tokens import _QWEN2, _SPLITS
from transformer_fast.tokenization import read_tokenizer

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("gguf")

END, USER = "<|end|>", "<tool>"
ODD = [
    "",
    " ",
    "  two  spaces\n\nand\tlines ",
    "Grüße, 東京 ❤️ 12345 it's I'LL",
    f"{END}x{END} y",
    f"a{USER} b",
    "e\u0301",
]
MODEL = {"context_length": 64, "embedding_length": 8, "block_count": 1, "feed_forward_length": 8}
MODEL |= {"attention.head_count": 2, "attention.layer_norm_rms_epsilon": 1e-5}


@pytest.fixture(scope="module")
def texts():
    return [str(sentence) for sentence in passages.sentences(300)]


def write(path, architecture, tokens, **metadata):
    """A file with a tokenizer and what config.json needs; None leaves a key out."""
    keys = {f"{architecture}.{key}": value for key, value in MODEL.items()}
    keys |= {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    keys["tokenizer.ggml.tokens"] = tokens
    return write_gguf(path, architecture, keys, {"token_embd.weight": np.zeros((len(tokens), 8), np.float32)})


def byte_level(texts, pre):
    """A tokenizer as folders of these models have it, trained on texts."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre == "llama-bpe"))
    words = tokenizers.pre_tokenizers
    found.pre_tokenizer = words.ByteLevel(add_prefix_space=False)
    if _SPLITS[pre] is not None:
        cut = words.Split(tokenizers.Regex(_SPLITS[pre]), "isolated")
        found.pre_tokenizer = words.Sequence([cut, words.ByteLevel(add_prefix_space=False, use_regex=False)])
    if _SPLITS[pre] == _QWEN2:
        found.normalizer = tokenizers.normalizers.NFC()
    found.decoder = tokenizers.decoders.ByteLevel()
    alphabet = words.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    found.train_from_iterator(texts, trainer)
    found.add_tokens([tokenizers.AddedToken(USER, normalized=False)])
    return found


def byte_level_metadata(tokenizer, pre):
    """(tokens, metadata) of it."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    kinds = [3 if token == END else 4 if token == USER else 1 for token in tokens]
    return tokens, {
        "model": "gpt2",
        "pre": pre,
        "merges": merges,
        "token_type": kinds,
        "eos_token_id": tokens.index(END),
    }


@pytest.mark.parametrize(
    ("pre", "architecture"), [("llama-bpe", "llama"), ("gpt-2", "llama"), ("qwen2", "qwen2"), ("qwen2", "qwen3")]
)
def test_bytes(tmp_path, texts, pre, architecture):
    theirs = byte_level(texts, pre)
    tokens, metadata = byte_level_metadata(theirs, pre)
    ours = read_tokenizer(write(tmp_path / "a.gguf", architecture, tokens, **metadata))
    for text in [*texts[:60], *ODD]:
        expected = theirs.encode(text).ids
        assert ours.tokenizer.encode(text).ids == expected, text
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False)
    assert ours.special("eos_token") == (END, tokens.index(END))
    assert ours.tokenizer.decode([tokens.index(END), tokens.index(USER)], skip_special_tokens=True) == USER


@pytest.fixture(scope="module")
def pieces(texts):
    library = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return library.SentencePieceProcessor(model_proto=written.getvalue())


def pieces_metadata(pieces):
    numbers = range(pieces.get_piece_size())
    kinds = [
        2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1 for i in numbers
    ]
    scores = [float(pieces.get_score(i)) for i in numbers]
    named = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return [pieces.id_to_piece(i) for i in numbers], {"model": "llama", "scores": scores, "token_type": kinds, **named}


@pytest.mark.parametrize(
    ("ends", "before", "after"), [({}, [1], []), ({"add_bos_token": False, "add_eos_token": True}, [], [2])]
)
def test_sentencepiece(tmp_path, texts, pieces, ends, before, after):
    """The model's own pieces, and the first token, which is there unless the file says otherwise."""
    tokens, metadata = pieces_metadata(pieces)
    ours = read_tokenizer(write(tmp_path / "a.gguf", "llama", tokens, **metadata, **ends))
    for text in [*texts[:60], *(text for text in ODD if END not in text)]:
        assert ours.tokenizer.encode(text).ids == [*before, *pieces.encode(text), *after], text
        assert ours.decode(pieces.encode(text), True) == pieces.decode(pieces.encode(text)), text


BROKEN = [
    ({"model": "t5"}, r"tokenizer\.ggml\.model is 't5'; supported: gpt2, llama"),
    ({"pre": "tekken"}, r"tokenizer\.ggml\.pre is 'tekken'; supported: default, gpt-2, "),
    ({"merges": None}, r"tokenizer\.ggml\.merges is missing; needed: an array of strings"),
    ({"merges": ["a b c"]}, r"merges has 'a b c'; needed: two tokens and a space"),
    ({"merges": ["q zz"]}, r"a\.gguf/tokenizer\.json"),
    ({"token_type": [1, 1]}, r"token_type is no array of \d+ numbers, one for each token"),
    ({"eos_token_id": 10_000}, r"eos_token_id is 10000; needed: 0 to \d+"),
    ({"add_bos_token": 1}, r"add_bos_token is 1; needed: a boolean"),
    ({"cut_here": 1}, r"has the metadata 'tokenizer\.ggml\.cut_here', which is not known"),
    ({"model": "llama"}, r"scores is missing; needed by a vocabulary of SentencePiece"),
]


@pytest.mark.parametrize(("changed", "said"), BROKEN, ids=[said[:40] for _, said in BROKEN])
def test_refusals(tmp_path, texts, changed, said):
    tokens, metadata = byte_level_metadata(byte_level(texts[:20], "gpt-2"), "gpt-2")
    path = write(tmp_path / "a.gguf", "llama", tokens, **metadata | changed)
    with pytest.raises(CheckpointError, match=said) as error:
        read_tokenizer(path)
    assert str(path) in str(error.value)


def test_a_token_twice(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\.tokens has a token twice"):
        read_tokenizer(write(tmp_path / "a.gguf", "llama", ["a", "b", "a"], model="gpt2", merges=["a b"]))


def test_another_cut_than_the_class_of_qwen2_makes(tmp_path):
    with pytest.raises(CheckpointError, match=r"pre is 'gpt-2'; supported for qwen2: qwen2, deepseek-r1-qwen"):
        read_tokenizer(write(tmp_path / "a.gguf", "qwen2", ["a", "b"], model="gpt2", pre="gpt-2", merges=["a b"]))


def test_no_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: there is no such file"):
        read_tokenizer(write(tmp_path / "a.gguf", "llama", ["a", "b"], model=None))
