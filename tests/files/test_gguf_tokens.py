"""gguf_tokens.py: texts become the tokens of the tokenizer that the file's metadata was made of."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from gguf_files import write_gguf

from transformer_fast import passages
from transformer_fast.files.errors import CheckpointError
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


# The expressions of the models' own tokenizer.json; None: GPT-2's.
_ENDS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
OWN = {
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_ENDS}",
    "qwen2": rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_ENDS}",
    "qwen35": rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{_ENDS}",
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_ENDS}",
    "gpt-4o": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_ENDS}",
}


def byte_level(texts, pre):
    """A tokenizer as folders of these models have it, trained on texts."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    words = tokenizers.pre_tokenizers
    found.pre_tokenizer = words.ByteLevel(add_prefix_space=False)
    if pre == "smollm":
        found.pre_tokenizer = words.Sequence([words.Digits(individual_digits=True), found.pre_tokenizer])
    if OWN[pre] is not None:
        cut = words.Split(tokenizers.Regex(OWN[pre]), "isolated")
        found.pre_tokenizer = words.Sequence([cut, words.ByteLevel(add_prefix_space=False, use_regex=False)])
    if pre.startswith("qwen"):
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
    ("pre", "architecture"),
    [
        ("llama-bpe", "llama"),
        ("gpt-2", "llama"),
        ("qwen2", "qwen2"),
        ("qwen2", "qwen3"),
        *((pre, "llama") for pre in ("smollm", "qwen35", "tekken", "gpt-4o")),
    ],
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
    ({"model": "rwkv"}, r"tokenizer\.ggml\.model is 'rwkv'; supported: gpt2, llama, bert, t5"),
    ({"pre": "superbpe"}, r"tokenizer\.ggml\.pre is 'superbpe'; supported: default, gpt-2, "),
    ({"add_bos_token": True}, r"add_bos_token is true; needed: bos_token_id, too"),
    ({"model": "t5"}, r"scores is missing; needed by a vocabulary of SentencePiece"),
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
    with pytest.raises(CheckpointError, match=r"pre is 'gpt-2'; supported for qwen2: qwen2, deepseek-r1-qwen, megrez"):
        read_tokenizer(write(tmp_path / "a.gguf", "qwen2", ["a", "b"], model="gpt2", pre="gpt-2", merges=["a b"]))


def test_no_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: there is no such file"):
        read_tokenizer(write(tmp_path / "a.gguf", "llama", ["a", "b"], model=None))


WORDS = "Hi YouTube's 12345 ab\u0301c  x\n\ny,.;<= 东京abc "
CUT = {
    "default": ["Hi", " YouTube", "'", "s", " ", "123", "45", " ab", "\u0301", "c", " ", " x", "\n", "\n", "y", ",.;<="]
    + [" 东京abc", " "],
    "deepseek-llm": [
        "Hi",
        " YouTube",
        "'",
        "s",
        " ",
        "12345",
        " ab",
        "\u0301",
        "c",
        " ",
        " x",
        "\n",
        "\n",
        "y",
        ",.;<=",
    ]
    + [" ", "东京", "abc", " "],
    "deepseek-coder": [
        "Hi",
        " YouTube",
        "'",
        "s",
        " ",
        *"12345",
        " ab",
        "\u0301",
        "c",
        " ",
        " x",
        "\n",
        "\n",
        "y",
        ",.;",
    ]
    + ["<=", " ", "东京", "abc", " "],
    "deepseek-v3": [
        "Hi",
        " YouTube",
        "'s",
        " ",
        "123",
        "45",
        " ab\u0301c",
        " ",
        " x",
        "\n\n",
        "y",
        ",.;<=",
        " ",
        "东京",
    ]
    + ["abc", " "],
    "smollm": ["Hi", " YouTube", "'s", " ", *"12345", " ab", "\u0301", "c", " ", " x", "\n", "\n", "y", ",.;<="]
    + [" 东京abc", " "],
    "gpt-4o": [
        "Hi",
        " You",
        "Tube's",
        " ",
        "123",
        "45",
        " ab\u0301c",
        " ",
        " x",
        "\n\n",
        "y",
        ",.;<=",
        " 东京abc",
        " ",
    ],
    "tekken": [
        "Hi",
        " You",
        "Tube",
        "'s",
        " ",
        *"12345",
        " ab\u0301c",
        " ",
        " x",
        "\n\n",
        "y",
        ",.;<=",
        " 东京abc",
        " ",
    ],
}


@pytest.mark.parametrize("pre", CUT)
def test_cuts(tmp_path, pre):
    """Words, written out."""
    alphabet = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "aa"]
    path = write(tmp_path / "a.gguf", "llama", alphabet, model="gpt2", pre=pre, merges=["a a"])
    cut = read_tokenizer(path).tokenizer.pre_tokenizer.pre_tokenize_str(WORDS)
    assert [WORDS[slice(*place)] for _, place in cut] == CUT[pre]


@pytest.mark.parametrize(("key", "first"), [({}, True), ({"add_bos_token": False}, False)])
@pytest.mark.parametrize("pre", ["llama-bpe", "tekken", "gpt-2"])
def test_first_tokens_that_a_file_does_not_ask_for(tmp_path, pre, key, first):
    tokens = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "aa"]
    metadata = {"model": "gpt2", "pre": pre, "merges": ["a a"], "bos_token_id": 3, **key}
    ids = read_tokenizer(write(tmp_path / "a.gguf", "llama", tokens, **metadata)).tokenizer.encode("aa").ids
    assert ids == [3] * (first and pre != "gpt-2") + [256]


# --- WordPiece --------------------------------------------------------------------------------------------------------

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[unused1]",
    "the",
    "cat",
    "s",
    "##s",
    "##at",
    "▁",
    "##▁",
    "e",
    ",",
]
PIECES += ["grusse", "Grüße", "东"]
BERT = {"context_length": 16, "embedding_length": 8, "block_count": 1, "feed_forward_length": 8}
BERT |= {"attention.head_count": 2, "attention.layer_norm_epsilon": 1e-5}


def marked(token):
    """As llama.cpp's converter writes a token that is no control token."""
    return token[2:] if token.startswith("##") else f"▁{token}"


def write_word_pieces(path, pieces=PIECES, **changed):
    tokens = pieces[:5] + [marked(token) for token in pieces[5:]]
    keys = {f"bert.{key}": value for key, value in BERT.items()}
    metadata = {"model": "bert", "token_type": [3] * 5 + [1] * (len(pieces) - 5), "unknown_token_id": 1}
    metadata |= {"bos_token_id": 2, "seperator_token_id": 3, "padding_token_id": 0, "mask_token_id": 4}
    metadata |= {"normalizer.lowercase": True, **changed}
    keys |= {f"tokenizer.ggml.{key}": value for key, value in metadata.items()} | {"tokenizer.ggml.tokens": tokens}
    return write_gguf(path, "bert", keys, {"token_embd.weight": np.zeros((len(pieces), 8), np.float32)} | TYPES)


TYPES = {"token_types.weight": np.zeros((2, 8), np.float32)}
PIECE_TEXTS = ["The cats, the CAT[MASK]!", "", "Grüße GRÜSSE 东东", "se sat ▁ a▁ e▁", "[unused1] [CLS]", "x" * 200]


@pytest.mark.parametrize("lower", [True, False])
def test_word_pieces(tmp_path, lower):
    theirs = tokenizers.BertWordPieceTokenizer({piece: i for i, piece in enumerate(PIECES)}, lowercase=lower)
    theirs.add_special_tokens(PIECES[:5])
    ours = read_tokenizer(write_word_pieces(tmp_path / "a.gguf", **{"normalizer.lowercase": lower}))
    assert ours.input_names == ("input_ids", "token_type_ids", "attention_mask")
    for text in PIECE_TEXTS:
        expected, got = theirs.encode(text), ours.tokenizer.encode(text)
        assert got.ids == expected.ids, text
    expected, got = theirs.encode("the cat", "cats"), ours.tokenizer.encode("the cat", "cats")
    assert (got.ids, got.type_ids) == (expected.ids, expected.type_ids)
    assert ours.decode(got.ids, skip_special_tokens=True) == "the cat cats"


BROKEN_PIECES = [
    (
        {"normalizer.lowercase": None},
        "no metadata 'tokenizer.ggml.normalizer.lowercase', and the vocabulary has the word",
    ),
    ({"unknown_token_id": None}, "no metadata tokenizer.ggml.unknown_token_id"),
    ({"bos_token_id": None}, "no metadata tokenizer.ggml.bos_token_id"),
    ({"seperator_token_id": None}, "no metadata tokenizer.ggml.seperator_token_id"),
    ({"mask_token_id": 99}, "mask_token_id is 99; needed: 0 to 17"),
    ({"mask_token_id": "[MASK]"}, "mask_token_id is '.MASK.'; needed: 0 to 17"),
]


@pytest.mark.parametrize(("changed", "said"), BROKEN_PIECES, ids=[said[:40] for _, said in BROKEN_PIECES])
def test_refusals_of_word_pieces(tmp_path, changed, said):
    with pytest.raises(CheckpointError, match=said):
        read_tokenizer(write_word_pieces(tmp_path / "a.gguf", **changed))


# --- Unigram ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unigram(texts):
    library = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    options = {"vocab_size": 400, "model_type": "unigram", "minloglevel": 2}
    library.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=written, **options)
    return library.SentencePieceProcessor(model_proto=written.getvalue()), written.getvalue()


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_unigram(tmp_path, texts, unigram, architecture):
    """The model's own pieces, its own normalisation, and the tokens around a text and a pair."""
    model, content = unigram
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(content)
    tokens, metadata = pieces_metadata(model)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    metadata |= {"model": "t5", "add_space_prefix": True, "remove_extra_whitespaces": True, "add_bos_token": True}
    metadata |= {"precompiled_charsmap": charsmap, "seperator_token_id": 2, "add_sep_token": architecture == "bert"}
    if architecture == "bert":
        keys = {f"bert.{key}": value for key, value in BERT.items()} | {"tokenizer.ggml.tokens": tokens}
        keys |= {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
        table = {"token_embd.weight": np.zeros((len(tokens), 8), np.float32)} | TYPES
        ours = read_tokenizer(write_gguf(tmp_path / "a.gguf", "bert", keys, table))
    else:
        ours = read_tokenizer(write(tmp_path / "a.gguf", architecture, tokens, **metadata))
    for text in [*texts[:60], *(text for text in ODD if text.strip() and END not in text), "ﬁne  ① "]:
        assert ours.tokenizer.encode(text).ids == [1, *model.encode(text), 2], text
        known = [number for number in model.encode(text) if not model.is_unknown(number)]
        assert ours.decode(known) == model.decode(known)
    pair = ours.tokenizer.encode("a", "b")
    between = [2] if architecture == "bert" else [1]
    assert pair.ids == [1, *model.encode("a"), 2, *between, *model.encode("b"), 2]
    assert max(pair.type_ids) == (architecture != "bert")


# --- Gemma's marks of spaces ------------------------------------------------------------------------------------------


def test_runs_of_spaces_that_a_user_has_defined(tmp_path):
    """Gemma's: without a space before a text, and tokens of several spaces, by either spelling."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "▁", "▁a", "▁▁", "   ", "\n\n", "<0x0A>", "0"]
    metadata = {"model": "llama", "scores": [0.0] * 4 + [-float(i) for i in range(9)], "add_space_prefix": False}
    metadata |= {"token_type": [3, 3, 3, 2, 1, 1, 1, 1, 4, 4, 4, 6, 1], "bos_token_id": 2, "eos_token_id": 1}
    metadata |= {"unknown_token_id": 3, "add_bos_token": True}
    ours = read_tokenizer(write(tmp_path / "a.gguf", "llama", tokens, **metadata))
    for text, expected in [("a a", [4, 7]), ("  a", [8, 4]), ("   b", [9, 5]), ("a\n\nb\n", [4, 10, 5, 11])]:
        assert ours.tokenizer.encode(text).ids == [2, *expected], text
    assert ours.decode([4, 7, 8, 9]) == "a a     "
    assert ours.tokenizer.encode("<0x0A>").ids[-1] != 11  # the text, which is no byte


def test_spaces_after_special_tokens_of_phi3(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", "a", "▁", "▁a", "<|endoftext|>", "<|user|>", "<|end|>", "<0x0A>"]
    metadata = {"model": "llama", "scores": [0.0] * 3 + [-1.0] * 7, "token_type": [2, 3, 3, 1, 1, 1, 3, 3, 3, 6]}
    metadata |= {"add_bos_token": False, "add_space_prefix": False}
    ours = read_tokenizer(write(tmp_path / "a.gguf", "phi3", tokens, **metadata))
    assert ours.encode("<|user|>\na<|end|> \n<|user|>").ids == [7, 3, 8, 7]
    assert ours.encode("<|endoftext|>\n").ids == [6, 9]
    other = read_tokenizer(write(tmp_path / "b.gguf", "llama", tokens, **metadata))
    assert other.encode("<|user|>\na").ids == [7, 9, 3]
