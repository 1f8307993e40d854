"""Tokenizer.token_bytes: joined, the bytes of tokens are the text that decode makes, for each kind of vocabulary."""

from __future__ import annotations

import json
import random

import pytest
from model_folders import write_json

tokenizers = pytest.importorskip("tokenizers")

from transformer_fast.files.errors import CheckpointError  # noqa: E402
from transformer_fast.generation import load_tokenizer  # noqa: E402

decoders, models, pre = tokenizers.decoders, tokenizers.models, tokenizers.pre_tokenizers
WORDS = ["a", "b", "▁", "▁a", "ab", "▁▁", "ü", "東", "x▁", "{", "▁{", '"']
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level():
    alphabet = pre.ByteLevel.alphabet()
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = ["Grüße, 東京 ❤️", "a b  c\n\n\td", "the cat sat on the mat"] * 3
    found.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return found


def sentencepiece():
    """Llama's, with bytes for what has no token."""
    vocab = {token: number for number, token in enumerate(["<unk>", *BYTES, *WORDS])}
    found = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    restored = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    found.decoder = decoders.Sequence(restored)
    return found


def unigram():
    pieces = [("<unk>", 0.0), *((word, -1.0) for word in WORDS)]
    found = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    found.pre_tokenizer, found.decoder = pre.Metaspace(), decoders.Metaspace()
    return found


def read(folder, tokenizer, **settings):
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **settings})
    write_json(folder / "config.json", {"model_type": "llama"})
    return load_tokenizer(folder)


@pytest.mark.parametrize("make", [byte_level, sentencepiece, unigram])
def test_bytes_are_those_of_the_text(tmp_path, make):
    made = make()
    made.add_tokens([tokenizers.AddedToken("<tool_call>", special=False, normalized=False)])
    made.add_special_tokens(["<|end|>"])
    tokenizer = read(tmp_path, made)
    tokens, special = tokenizer.token_bytes()
    assert len(tokens) == made.get_vocab_size() and made.token_to_id("<|end|>") in special
    assert tokens[made.token_to_id("<|end|>")] == b"" and tokens[made.token_to_id("<tool_call>")] == b"<tool_call>"
    first = made.token_to_id("a")
    usual = [number for number in range(len(tokens)) if number not in special and tokens[number] != b"<unk>"]
    for number in usual:
        text = tokenizer.decode([first, number, first])
        assert (tokens[first] + tokens[number] + tokens[first]).decode("utf-8", "replace") == text, number
    rng = random.Random(0)
    for _ in range(200):
        # A character between tokens: decoders write one sign for a broken run of bytes, or one for each.
        ids = [first, *(number for _ in range(6) for number in (rng.choice(usual), first))]
        expected = b"".join(tokens[number] for number in ids).decode("utf-8", "replace")
        assert tokenizer.decode(ids) == expected


def test_bytes_that_make_one_character(tmp_path):
    tokenizer = read(tmp_path, sentencepiece())
    tokens, _ = tokenizer.token_bytes()
    ids = [tokenizer.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "❤".encode()]
    assert b"".join(tokens[number] for number in ids).decode() == "❤" == tokenizer.decode(ids)


def test_a_gguf_file(tmp_path):
    pytest.importorskip("gguf")
    import numpy as np
    from decoder_cases import LLAMA
    from gguf_files import metadata_of, write_gguf

    tokens = ["<unk>", "<s>", "</s>", *BYTES, *WORDS]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(WORDS)]
    keys = {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": [0.0] * len(tokens)}
    metadata = metadata_of(LLAMA | {"vocab_size": len(tokens)}) | {
        f"tokenizer.ggml.{key}": value for key, value in keys.items()
    }
    path = write_gguf(
        tmp_path / "a.gguf", "llama", metadata, {"token_embd.weight": np.zeros((len(tokens), 8), np.float32)}
    )
    found, special = load_tokenizer(path).token_bytes()
    assert special >= {1, 2} and found[3 : 3 + 256] == [bytes([byte]) for byte in range(256)]
    assert found[3 + 256 :] == [word.replace("▁", " ").encode() for word in WORDS]


def test_tokenizers_whose_tokens_have_no_bytes(tmp_path):
    made = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    made.decoder = decoders.WordPiece()
    with pytest.raises(CheckpointError, match="the decoder WordPiece makes of a token what depends on its neighbours"):
        read(tmp_path, made).token_bytes()
    made.decoder = decoders.Sequence([decoders.Fuse(), decoders.BPEDecoder()])
    with pytest.raises(CheckpointError, match="the decoder BPEDecoder"):
        read(tmp_path, made).token_bytes()
    content = json.loads(made.to_str()) | {"decoder": None}
    with pytest.raises(CheckpointError, match="there is no decoder"):
        read(tmp_path, tokenizers.Tokenizer.from_str(json.dumps(content))).token_bytes()
    with pytest.raises(CheckpointError, match="clean_up_tokenization_spaces"):
        read(tmp_path, unigram(), clean_up_tokenization_spaces=True).token_bytes()
