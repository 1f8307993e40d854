"""files/tokenizer: which class a folder means, added tokens, older files, limits, threads; Marian's two models.

tests/oracle/test_tokens.py compares with transformers; here stands what a newcomer would expect, by hand.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from model_folders import write_json

tokenizers = pytest.importorskip("tokenizers")

from transformer_fast.files.errors import CheckpointError  # noqa: E402
from transformer_fast.files.folder import Folder  # noqa: E402
from transformer_fast.files.tokenizer.tokenizer import _KEPT  # noqa: E402
from transformer_fast.generation import load_tokenizer  # noqa: E402
from transformer_fast.tokenization import Tokenizer, read_tokenizer  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "green", "Red", "rouge", "##s"]
BRAND = {
    "content": "<brand>",
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "special": True,
}


def folder_of(folder, config: dict, model_type: str = "bert", **files):
    """A folder of BERT with tokenizer.json; files: name without ".json" -> content."""
    folder.mkdir(exist_ok=True)
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(WORDS[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": model_type})
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    return folder


@pytest.mark.parametrize(
    "config, files",
    [
        ({"added_tokens_decoder": {"11": BRAND}}, {}),
        ({"additional_special_tokens": ["<brand>"]}, {}),
        ({"extra_special_tokens": ["<brand>"]}, {}),
        ({"extra_special_tokens": {"brand_token": "<brand>"}}, {}),
        ({"brand_token": "<brand>"}, {}),
        ({}, {"added_tokens": {"<brand>": 11}}),
        ({}, {"special_tokens_map": {"additional_special_tokens": ["<brand>"]}}),
        ({}, {"special_tokens_map": {"additional_special_tokens": [BRAND]}}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_tokens_that_are_added_beside_the_vocabulary(tmp_path, kind, config, files):
    folder = folder_of(tmp_path, {"tokenizer_class": kind, **config}, **files)
    assert read_tokenizer(folder).encode_batch(["red <brand> blue"])[0].ids == [2, 5, 11, 6, 3]
    assert load_tokenizer(folder).encode("red <brand> blue").ids == [2, 5, 11, 6, 3]


@pytest.mark.parametrize(
    "config, first",
    [
        ({"tokenizer_class": "BertTokenizer"}, "red"),
        ({"tokenizer_class": "BertTokenizer", "do_lower_case": False}, "Red"),
        ({"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}, "Red"),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, "red"),
        ({"do_lower_case": False}, "Red"),
        ({"tokenizer_class": "NobodysTokenizer", "do_lower_case": False}, "red"),
    ],
    ids=str,
)
def test_options_that_the_class_reads(tmp_path, config, first):
    """The generic class takes tokenizer.json as it is; BERT's is built by the options."""
    found = read_tokenizer(folder_of(tmp_path, config)).encode_batch(["Red"])[0]
    assert found.ids == [2, WORDS.index(first), 3]


@pytest.mark.parametrize(
    "config, model_type, name, inputs",
    [
        ({"tokenizer_class": "BertTokenizer"}, "bert", "BertTokenizer", "token_type_ids"),
        ({"tokenizer_class": "ElectraTokenizerFast"}, "electra", "BertTokenizer", "token_type_ids"),
        ({}, "distilbert", "BertTokenizer", "token_type_ids"),
        ({"tokenizer_class": "DistilBertTokenizer"}, "distilbert", "DistilBertTokenizer", None),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "bert", "TokenizersBackend", None),
        ({"tokenizer_class": "BertTokenizer"}, "modernbert", "TokenizersBackend", None),
        ({"tokenizer_class": "BertTokenizer"}, "of_nobody", "BertTokenizer", "token_type_ids"),
        ({"auto_map": {"AutoTokenizer": ["a.B", None]}}, "bert", "BertTokenizer", "token_type_ids"),
    ],
    ids=str,
)
def test_class_and_arguments(tmp_path, config, model_type, name, inputs):
    tokenizer = read_tokenizer(folder_of(tmp_path, config, model_type))
    assert tokenizer.name == name
    assert ("token_type_ids" in tokenizer.input_names) == (inputs is not None)
    config = config | {"model_input_names": ["input_ids", "token_type_ids"]}
    assert read_tokenizer(folder_of(tmp_path, config, model_type)).input_names == ("input_ids", "token_type_ids")


def test_a_converted_marian_folder(tmp_path):
    """With tokenizer.json in place of source.spm, which transformers does not open."""
    tokenizer = read_tokenizer(folder_of(tmp_path, {"tokenizer_class": "MarianTokenizer"}, "marian"))
    assert tokenizer.encode_batch(["red"])[0].ids == [2, 5, 3]


def test_older_files_give_the_same_tokens(tmp_path):
    config = {"tokenizer_class": "BertTokenizer", "strip_accents": False}
    folder = folder_of(tmp_path, config)
    texts = ["red reds Blue", "", "rouge [MASK] x", "\u00e9 red"]
    expected = [one.ids for one in read_tokenizer(folder).encode_batch(texts)]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: there is no such file; needed: the vocabulary, there or in vocab"
    ):
        read_tokenizer(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    assert [one.ids for one in read_tokenizer(folder).encode_batch(texts)] == expected


def test_classes_beside_gpt2(tmp_path):
    """GPT-NeoX' normalises and has a token for padding; CodeGen's (Phi) may ask for token types, which is refused."""
    vocab = {"<|endoftext|>": 0, "<|padding|>": 1, "\u00c3": 2, "\u00a9": 3, "\u00c3\u00a9": 4}
    write_json(tmp_path / "vocab.json", vocab)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n\u00c3 \u00a9\n", encoding="utf-8")
    decomposed, config = "e\u0301", tmp_path / "tokenizer_config.json"
    write_json(tmp_path / "config.json", {"model_type": "gpt_neox"})
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode_batch([decomposed])[0].ids == [4]  # the two bytes of the composed letter
    assert tokenizer.special("pad_token") == ("<|padding|>", 1)
    write_json(config, {"add_bos_token": True})
    assert read_tokenizer(tmp_path).encode_batch([decomposed])[0].ids == [0, 4]
    write_json(config, {"tokenizer_class": "CodeGenTokenizer", "return_token_type_ids": False})
    assert read_tokenizer(tmp_path).encode_batch(["\u00e9"])[0].ids == [4]
    write_json(config, {"tokenizer_class": "CodeGenTokenizer", "return_token_type_ids": True})
    with pytest.raises(CheckpointError, match="return_token_type_ids is true, which is not supported"):
        read_tokenizer(tmp_path)


def unigram(folder, model_type: str, special: list[str], config: dict):
    """A folder whose tokenizer.json has these pieces first, then some words and letters."""
    words = ["▁red", "▁blue", "▁Red", "▁", "é", "e", "r", "d", "B", "b", "l", "u", "R", ",", '"']
    pieces = [(token, 0.0) for token in special] + [(word, -1.0 - i) for i, word in enumerate(words)]
    made = tokenizers.Tokenizer(
        tokenizers.models.Unigram(pieces, unk_id=special.index("[UNK]" if "[UNK]" in special else "<unk>"))
    )
    made.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", {"model_type": model_type})
    write_json(folder / "tokenizer_config.json", config)
    return read_tokenizer(folder), {piece: i for i, (piece, _) in enumerate(pieces)}


@pytest.mark.parametrize(
    "config, text, pieces",
    [
        ({}, "Red  blue", ["▁Red", "▁blue"]),
        ({"do_lower_case": True}, "Red blue\n", ["▁red", "▁blue"]),
        ({"split_by_punct": True}, "red,blue", ["▁red", "▁", ",", "▁blue"]),
        ({}, "red ?", ["▁red", "▁", "[UNK]"]),
    ],
)
def test_deberta_v2(tmp_path, config, text, pieces):
    tokenizer, numbers = unigram(tmp_path, "deberta-v2", ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], config)
    assert tokenizer.name == "DebertaV2Tokenizer" and "token_type_ids" in tokenizer.input_names
    single, pair = tokenizer.encode_batch([text, (text, "red")])
    ids = [numbers[piece] for piece in pieces]
    assert single.ids == [1, *ids, 2]
    assert pair.ids == [1, *ids, 2, numbers["▁red"], 2] and pair.type_ids == [0] * (len(ids) + 2) + [1, 1]


def test_deberta_v2_refuses_an_unknown_token_without_number(tmp_path):
    with pytest.raises(CheckpointError, match="unk_id is 'x'; needed: an integer"):
        unigram(tmp_path, "deberta-v2", ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], {"unk_id": "x"})


@pytest.mark.parametrize(
    "config, text, pieces",
    [
        ({}, "Réd", ["▁red"]),
        ({"do_lower_case": False, "keep_accents": True}, "Red é", ["▁Red", "▁", "é"]),
        ({}, "``red''", ["▁", '"', "r", "e", "d", '"']),
    ],
)
def test_albert(tmp_path, config, text, pieces):
    tokenizer, numbers = unigram(tmp_path, "albert", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], config)
    assert tokenizer.name == "AlbertTokenizer"
    single, pair = tokenizer.encode_batch([text, (text, "red")])
    ids = [numbers[piece] for piece in pieces]
    assert single.ids == [2, *ids, 3] and pair.ids == [2, *ids, 3, numbers["▁red"], 3]


def test_albert_needs_its_tokens(tmp_path):
    with pytest.raises(CheckpointError, match=r"the vocabulary has no \[CLS\]; needed: the token for it"):
        unigram(tmp_path, "albert", ["<pad>", "<unk>", "[SEP]"], {})


def test_vocab_json_with_merges(tmp_path):
    vocab = {
        "<s>": 0,
        "<pad>": 1,
        "</s>": 2,
        "<unk>": 3,
        "<mask>": 4,
        "a": 5,
        "b": 6,
        "ab": 7,
        "\u0120": 8,
        "\u0120ab": 9,
    }
    write_json(tmp_path / "vocab.json", vocab)
    write_json(tmp_path / "config.json", {"model_type": "roberta"})
    with pytest.raises(CheckpointError, match=r"merges\.txt: there is no such file"):
        read_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n\u0120 ab\n", encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode_batch(["ab ab"])[0].ids == [0, 7, 9, 2]
    assert tokenizer.encode_batch([("ab", "b")])[0].ids == [0, 7, 2, 2, 6, 2]
    assert tokenizer.decode([0, 7, 9, 2], skip_special_tokens=True) == "ab ab"
    (tmp_path / "merges.txt").write_text("a b c\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"merges\.txt: the line 'a b c' is no merge of two tokens"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"tokenizer_class": "BertJapaneseTokenizer"},
            "tokenizer_class is 'BertJapaneseTokenizer'; supported: AlbertTokenizer, Bert",
        ),
        (
            {"tokenizer_class": "T5Tokenizer"},
            "holds a WordPiece model, and the folder's tokenizer_class is T5Tokenizer",
        ),
        ({"tokenizer_class": 3}, "tokenizer_class is 3; needed: a string"),
        ({"init_inputs": [1]}, "init_inputs is given"),
        ({"cls_token": 5}, "cls_token is 5; needed: a token"),
        ({"extra_special_tokens": "<brand>"}, "extra_special_tokens is '<brand>'; needed: a list"),
        ({"added_tokens_decoder": {"x": BRAND}}, "added_tokens_decoder is .*; needed: an object of numbers and tokens"),
        ({"added_tokens_decoder": {"1": "<brand>"}}, "added_tokens_decoder holds '<brand>'; needed: an object"),
        ({"do_lower_case": "no"}, "do_lower_case is 'no'; needed: bool"),
        ({"model_max_length": "512"}, "model_max_length is '512'; needed: a number >= 1"),
        ({"model_max_length": 0}, "model_max_length is 0; needed: a number >= 1"),
        ({"model_input_names": "input_ids"}, "model_input_names is 'input_ids'; needed: a list of names"),
        ({"additional_special_tokens": [1]}, r"extra_special_tokens is \[1\]; needed: a list of tokens"),
    ],
    ids=str,
)
def test_settings_that_are_refused(tmp_path, config, message):
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(folder_of(tmp_path, config))


@pytest.mark.parametrize(
    "file, content",
    [
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": "b"}}}),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": [1, 2]}}),
        ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [3]}),
        ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [{"content": "x", "id": "1"}]}),
        ("tokenizer.json", {"model": {"vocab": {}}, "post_processor": {"type": "?"}}),
        ("special_tokens_map.json", {"extra_special_tokens": 5}),
        ("special_tokens_map.json", {"mask_token": [1]}),
        ("added_tokens.json", {"<brand>": -1}),
        ("added_tokens.json", {"<brand>": 2**40}),
        ("config.json", {"model_type": ["bert"], "tokenizer_class": {}}),
        ("tokenizer_config.json", {"extra_special_tokens": {"a": 1}}),
        ("tokenizer_config.json", {"cls_token": {"content": "x", "lstrip": 1}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: BRAND}}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_files_of_anything_are_checkpoint_errors(tmp_path, file, content):
    folder = folder_of(tmp_path, {})
    write_json(folder / file, content)
    with pytest.raises(CheckpointError):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_length": 0}, "max_length is 0; needed: an integer from 1 to"),
        ({"max_length": 2**70}, "max_length is 1180591620717411303424; needed: an integer from 1 to"),
        ({"max_length": 1}, "max_length is 1; needed: at least 2, the special tokens"),
        ({"max_length": 4, "stride": 4}, "stride is 4; needed: an integer from 0 to 3"),
        ({"max_length": 4, "stride": 3}, "stride set to 3, which is greater"),
        ({"max_length": 4, "strategy": "middle"}, "strategy is 'middle'; needed: one of longest_first"),
        ({"max_length": 4, "side": ""}, "side is ''; needed: one of left, right"),
        ({"max_length": 4, "strategy": "only_second"}, "max_length is 4 and strategy 'only_second': Truncation"),
    ],
    ids=str,
)
def test_limits_that_are_refused(tmp_path, options, message):
    tokenizer = read_tokenizer(folder_of(tmp_path, {}))
    for _ in range(2):  # nothing half made is kept
        with pytest.raises(ValueError, match=message):
            tokenizer.encode_batch(["red blue green red blue green"], **options)


@pytest.mark.parametrize("texts", [[5], [None], [b"red"], ["red", ("a", "b", "c")], [("a", None)]], ids=str)
def test_texts_that_are_none(tmp_path, texts):
    with pytest.raises(TypeError, match=r"texts\[\d\] is .*; needed: a string or a pair of strings"):
        read_tokenizer(folder_of(tmp_path, {})).encode_batch(texts)


@pytest.mark.parametrize("name, ids", [("sep_token", [2, 5, 3]), ("cls_token", [2, 5, 3])])
def test_a_token_of_bert_that_a_file_denies(tmp_path, name, ids):
    """As in transformers, the class' own number stays."""
    folder = folder_of(tmp_path, {"tokenizer_class": "BertTokenizer", name: None})
    assert read_tokenizer(folder).encode_batch(["red"])[0].ids == ids


def test_limits_are_those_of_the_call(tmp_path):
    tokenizer = read_tokenizer(folder_of(tmp_path, {"truncation_side": "left", "model_max_length": 9}))
    text, whole = "red blue green", [2, 5, 6, 7, 3]
    assert tokenizer.max_length == 9 and tokenizer.encode_batch([text])[0].ids == whole
    assert tokenizer.encode_batch([text], max_length=4)[0].ids == [2, 6, 7, 3]
    assert tokenizer.encode_batch([text], max_length=4, side="right")[0].ids == [2, 5, 6, 3]
    windows = tokenizer.encode_batch([text], max_length=4, stride=1, side="right", offsets=True)[0]
    assert [one.ids for one in (windows, *windows.overflowing)] == [[2, 5, 6, 3], [2, 6, 7, 3]]
    assert windows.offsets[1:3] == [(0, 3), (4, 8)]
    pair = tokenizer.encode_batch([("red", text)], max_length=6, strategy="only_second")[0]
    assert pair.ids == [2, 5, 3, 6, 7, 3] and pair.type_ids == [0, 0, 0, 1, 1, 1]
    for length in range(4, 4 + 2 * _KEPT):
        tokenizer.encode_batch([text], max_length=length)
    assert len(tokenizer._limited) == _KEPT
    assert tokenizer.encode_batch([text])[0].ids == whole


def test_numbers_with_gaps_stay(tmp_path):
    """A copy with a limit has the numbers of the file even where they do not follow the vocabulary."""
    folder = folder_of(tmp_path, {"tokenizer_class": "PreTrainedTokenizerFast"})
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["last"] = 40
    content["added_tokens"] += [BRAND | {"id": 12}, BRAND | {"id": 50, "content": "<other>"}]
    write_json(folder / "tokenizer.json", content)
    tokenizer = read_tokenizer(folder)
    texts = ["<other> red <brand>", "last <brand>"]
    free = [one.ids for one in tokenizer.encode_batch(texts)]
    assert [one.ids for one in tokenizer.encode_batch(texts, max_length=20)] == free


def test_threads_with_different_limits(tmp_path):
    tokenizer = read_tokenizer(folder_of(tmp_path, {}))
    text = "red blue green " * 9
    alone = {length: tokenizer.encode_batch([text], max_length=length)[0].ids for length in range(3, 29)}

    def one(i):
        length = 3 + i % 26
        return tokenizer.encode_batch([text], max_length=length)[0].ids == alone[length]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(2000)))


def test_surrogates(tmp_path):
    with pytest.raises(ValueError, match="holds a lone surrogate"):
        read_tokenizer(folder_of(tmp_path, {})).encode_batch(["a\ud800"])


# ----------------------------------------------------------------------------------------------------------------------
# SentencePiece


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    """A folder with trained.model, of a corpus of a few words."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    folder = tmp_path_factory.mktemp("spm")
    (folder / "corpus.txt").write_text("red blue green\nblue red\ngreen reds\nrouge bleu vert\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "trained"),
        vocab_size=32,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "trained.model")), folder / "trained.model"


def test_sentencepiece_of_xlm_roberta(tmp_path, spm):
    model, path = spm
    write_json(tmp_path / "config.json", {"model_type": "xlm-roberta"})
    (tmp_path / "sentencepiece.bpe.model").write_bytes(path.read_bytes())
    pieces = model.encode(
        "red bleu", out_type=int
    )  # numbers are shifted by one: fairseq's <pad> stands among the first
    assert read_tokenizer(tmp_path).encode_batch(["red bleu"])[0].ids == [0, *(i + 1 for i in pieces), 2]
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        read_tokenizer(tmp_path)


def test_marian(tmp_path, spm):
    model, path = spm
    for name in ("source.spm", "target.spm"):
        (tmp_path / name).write_bytes(path.read_bytes())
    pieces = [model.id_to_piece(i) for i in range(3, model.get_piece_size())]
    vocab = {"</s>": 0, "<unk>": 1, **{piece: i + 2 for i, piece in enumerate(pieces[::-1])}}
    vocab |= {">>fr<<": len(vocab), "<pad>": len(vocab) + 1}
    write_json(tmp_path / "vocab.json", vocab)
    write_json(tmp_path / "config.json", {"model_type": "marian"})
    write_json(tmp_path / "tokenizer_config.json", {"source_lang": "en", "target_lang": "fr"})
    tokenizer = read_tokenizer(tmp_path)
    cut = model.encode("red bleu", out_type=str)
    assert tokenizer.encode_batch(["red bleu"])[0].ids == [*(vocab[piece] for piece in cut), 0]
    assert tokenizer.encode_batch([">>fr<< red"])[0].ids[0] == vocab[">>fr<<"]
    assert tokenizer.encode_batch(["red bleu"], max_length=3)[0].ids == [*(vocab[piece] for piece in cut[:2]), 0]
    assert tokenizer.decode([*(vocab[piece] for piece in cut), 0], skip_special_tokens=True) == "red bleu"
    assert tokenizer.max_length == 512 and tokenizer.special("pad_token") == ("<pad>", vocab["<pad>"])
    with pytest.raises(ValueError, match="holds a lone surrogate"):
        tokenizer.encode_batch(["\ud800"])
    with pytest.raises(ValueError, match="stride is 1 and strategy 'longest_first'; needed by Marian"):
        tokenizer.encode_batch(["red bleu"], max_length=3, stride=1)
    with pytest.raises(CheckpointError, match="do_lower_case is asked for, which MarianTokenizer does not support"):
        Tokenizer(Folder(tmp_path), lower_case=True)
    write_json(tmp_path / "added_tokens.json", {"": 900})
    assert read_tokenizer(tmp_path).encode_batch(["red bleu"])[0].ids == [*(vocab[piece] for piece in cut), 0]
    (tmp_path / "source.spm").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"source\.spm: holds 0 bytes"):
        read_tokenizer(tmp_path)
    (tmp_path / "source.spm").write_bytes(path.read_bytes())
    (tmp_path / "target.spm").unlink()
    with pytest.raises(CheckpointError, match=r"target\.spm: there is no such file; needed: a SentencePiece model"):
        read_tokenizer(tmp_path)
