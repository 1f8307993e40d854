"""files/tokenizer live against AutoTokenizer: ids, token types, offsets, cuts and decoded texts of the same folders.

Each class of transformers has a small vocabulary that is trained here, a folder with tokenizer.json or with the files
that came before it, and settings one at a time and in mixtures. Texts have accents, scripts without spaces, emoji,
control characters, special tokens in the text, spaces of all kinds, nothing at all; and pairs.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")

from transformer_fast.files.errors import CheckpointError  # noqa: E402
from transformer_fast.files.languages import WHISPER_LANGUAGES  # noqa: E402
from transformer_fast.tokenization import read_tokenizer  # noqa: E402

pytestmark = pytest.mark.oracle

logging.getLogger("transformers").setLevel(logging.ERROR)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and doesn't stop; it'll run 123 miles (or 4,567.89 km)!",
    "Élodie naïvement déçue à Zürich: señor Ångström fährt über die Straße.",
    "東京は日本の首都です。北京是中国的首都。서울은 한국의 수도입니다.",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم.",
    "def f(x):\n\treturn x ** 2  # squares\n\n\nfor i in range(10): print(f(i))",
    "emoji 😀 👩\u200d👩\u200d👧 and combining e\u0301 a\u030a, ﬁ ligature, ①②③ and ｆｕｌｌ width",
    "one two three four five six seven eight nine ten eleven twelve words in a row",
]
WORDS = sorted({word for line in CORPUS for word in line.split()})
SPECIAL = ("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "<s>", "</s>", "<mask>", "<pad>", "<unk>", "<|endoftext|>")
SPACES = (" ", "  ", "\t", "\n", "\u00a0", "\u3000", "")


def texts(count: int) -> list[str]:
    """The same texts each time."""
    rng = random.Random(0)
    found = [
        "",
        " ",
        "   ",
        "\n",
        "a",
        " a",
        "a ",
        "<brand>",
        "a<brand>b",
        " <brand> ",
        "<brand><brand>",
        "\u0000x",
        *CORPUS,
    ]
    while len(found) < count:
        parts = rng.choices([*WORDS, *SPECIAL, "<brand>", "brand", "▁", "##s", "\u0301", "\ufffd"], k=rng.randint(1, 9))
        found.append("".join(part + rng.choice(SPACES) for part in parts))
    return found[:count]


TEXTS = texts(500)
SOME = TEXTS[:70]


# ----------------------------------------------------------------------------------------------------------------------
# Vocabularies


def wordpiece(special) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *[line.lower() for line in CORPUS]], trainer)
    return tokenizer


def bytes_bpe(special, suffix="") -> tokenizers.Tokenizer:
    options = {"end_of_word_suffix": suffix} if suffix else {}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(**options))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
        **options,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def train_spm(folder: Path, name: str, kind: str, **options) -> Path:
    import sentencepiece

    (folder / "corpus.txt").write_text("\n".join([*CORPUS, *WORDS]), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "trained"),
        model_type=kind,
        vocab_size=options.pop("vocab_size", 420),
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (folder / "trained.model").rename(folder / name)
    for left in ("trained.vocab", "corpus.txt"):
        (folder / left).unlink()
    return folder / name


def write(folder: Path, name: str, content) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


LANGUAGES = [f"<|{code}|>" for code in dict.fromkeys(WHISPER_LANGUAGES.values())]
_BIG_BIRD = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "user_defined_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _bert_files(folder: Path, special=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")) -> None:
    vocab = wordpiece(list(special)).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", encoding="utf-8")


def _mpnet_files(folder: Path) -> None:
    _bert_files(folder, ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))


def _bpe_files(folder: Path, special=(), suffix="") -> None:
    definition = json.loads(bytes_bpe(list(special), suffix).to_str())["model"]
    write(folder, "vocab.json", definition["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in definition["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


# class -> (model_type, what writes the files that came before tokenizer.json)
KINDS = {
    "BertTokenizer": ("bert", _bert_files),
    "DistilBertTokenizer": ("distilbert", _bert_files),
    "ElectraTokenizer": ("electra", _bert_files),
    "MPNetTokenizer": ("mpnet", _mpnet_files),
    "RobertaTokenizer": ("roberta", lambda f: _bpe_files(f, _ROBERTA)),
    "BartTokenizer": ("bart", lambda f: _bpe_files(f, _ROBERTA)),
    "GPT2Tokenizer": ("gpt2", lambda f: _bpe_files(f, ["<|endoftext|>"])),
    "CodeGenTokenizer": ("phi", lambda f: _bpe_files(f, ["<|endoftext|>"])),
    "GPTNeoXTokenizer": ("gpt_neox", lambda f: _bpe_files(f, ["<|endoftext|>", "<|padding|>"])),
    "Qwen2Tokenizer": ("qwen2", lambda f: _bpe_files(f, ["<|endoftext|>"])),
    "CLIPTokenizer": ("clip", lambda f: _bpe_files(f, ["<|startoftext|>", "<|endoftext|>"], "</w>")),
    "WhisperTokenizer": (
        "whisper",
        lambda f: _bpe_files(
            f, ["<|endoftext|>", "<|startoftranscript|>", *LANGUAGES, "<|transcribe|>", "<|notimestamps|>"]
        ),
    ),
    "LlamaTokenizer": ("llama", lambda f: train_spm(f, "tokenizer.model", "bpe", byte_fallback=True, vocab_size=700)),
    "GemmaTokenizer": (
        "gemma2",
        lambda f: train_spm(
            f,
            "tokenizer.model",
            "bpe",
            byte_fallback=True,
            vocab_size=700,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            bos_piece="<bos>",
            eos_piece="<eos>",
            add_dummy_prefix=False,
        ),
    ),
    "T5Tokenizer": ("t5", lambda f: train_spm(f, "spiece.model", "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)),
    "XLMRobertaTokenizer": ("xlm-roberta", lambda f: train_spm(f, "sentencepiece.bpe.model", "unigram")),
    "CamembertTokenizer": ("camembert", lambda f: train_spm(f, "sentencepiece.bpe.model", "unigram")),
    "BigBirdTokenizer": ("big_bird", lambda f: train_spm(f, "spiece.model", "unigram", **_BIG_BIRD)),
    "AlbertTokenizer": (
        "albert",
        lambda f: train_spm(
            f, "spiece.model", "unigram", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP],[MASK]"
        ),
    ),
    "DebertaV2Tokenizer": (
        "deberta-v2",
        lambda f: train_spm(
            f,
            "spm.model",
            "unigram",
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
        ),
    ),
    "TokenizersBackend": (
        "mistral",
        lambda f: train_spm(f, "tokenizer.model", "bpe", byte_fallback=True, vocab_size=700),
    ),
}

ADDED = {
    "content": "<brand>",
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "special": True,
}
WIDE = ADDED | {"lstrip": True, "rstrip": True, "special": False, "normalized": True}
ALONE = ADDED | {"single_word": True, "content": "brand", "special": False}

# One at a time: tokenizer_config.json's further settings, or (name of another file, its content).
SETTINGS: list[dict] = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"tokenize_chinese_chars": False},
    {"add_prefix_space": True},
    {"add_prefix_space": False},
    {"trim_offsets": False},
    {"legacy": True},
    {"legacy": False},
    {"add_bos_token": True},
    {"add_bos_token": True, "add_eos_token": True},
    {"split_special_tokens": True},
    {"clean_up_tokenization_spaces": True},
    {"model_input_names": ["input_ids", "attention_mask"]},
    {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    {"truncation_side": "left"},
    {"padding_side": "left"},
    {"additional_special_tokens": ["<brand>"]},
    {"extra_special_tokens": ["<brand>", "brand"]},
    {"extra_special_tokens": {"brand_token": "<brand>"}},
    {"brand_token": "<brand>"},
    {"pad_token": "<brand>"},
    {"mask_token": {"__type": "AddedToken", **ADDED, "lstrip": True, "content": "<mask>"}},
    {"bos_token": {"__type": "AddedToken", **ADDED}},
    {"file": ("added_tokens.json", {"<brand>": 3000, "brand": 3001})},
    {"file": ("special_tokens_map.json", {"additional_special_tokens": ["<brand>"], "pad_token": "brand"})},
    {"file": ("special_tokens_map.json", {"mask_token": {**ADDED, "content": "<mask>"}})},
    {"language": "french", "task": "transcribe"},
    {"predict_timestamps": True},
    {"extra_ids": 10},
    {"keep_accents": True},
    {"split_by_punct": True, "do_lower_case": True},
    {"unk_id": 4},
]
DECODERS = [
    {"added_tokens_decoder": {"3000": ADDED}},
    {"added_tokens_decoder": {"3000": WIDE, "3001": ALONE}},
]
# Mixtures of some of all kinds.
MIXTURES = [
    a | b
    for a, b in itertools.combinations(
        [
            {"do_lower_case": False, "add_prefix_space": True},
            {"extra_special_tokens": ["<brand>"], "truncation_side": "left"},
            {"added_tokens_decoder": {"3000": WIDE, "3001": ALONE}},
            {"pad_token": "brand", "split_special_tokens": True},
            {"file": ("special_tokens_map.json", {"mask_token": {**ADDED, "content": "<mask>", "lstrip": True}})},
            {"file": ("added_tokens.json", {"brand": 3000}), "legacy": False},
        ],
        2,
    )
    if not ("file" in a and "file" in b)
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """kind, with tokenizer.json or without -> a folder with the vocabulary, made once."""
    folders = {}

    def make(kind: str, definition: bool) -> Path:
        if (kind, definition) not in folders:
            folder = folders[kind, definition] = tmp_path_factory.mktemp(kind)
            model_type, files = KINDS[kind]
            files(folder)
            write(folder, "config.json", {"model_type": model_type})
            if definition:
                write(folder, "tokenizer_config.json", {"tokenizer_class": kind})
                theirs = transformers.AutoTokenizer.from_pretrained(folder)
                theirs.backend_tokenizer.save(str(folder / "tokenizer.json"))
        return folders[kind, definition]

    return make


def make_folder(folder: Path, vocabulary: Path, settings: dict, declared: str | None) -> Path:
    shutil.copytree(vocabulary, folder)
    options = {name: value for name, value in settings.items() if name != "file"}
    base = {} if declared is None else {"tokenizer_class": declared}
    write(folder, "tokenizer_config.json", base | options)
    if "file" in settings:
        write(folder, *settings["file"])
    return folder


def assert_equal(folder: Path, note: str, texts: list[str] = SOME) -> bool:
    """Ours is theirs; or, where transformers fails, opens or is a CheckpointError. Did they compare?"""
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception:  # whatever it is, there is nothing to compare with
        with suppress(CheckpointError):
            read_tokenizer(folder)
        return False
    ours = read_tokenizer(folder)
    offsets = theirs.is_fast
    expected = theirs(texts, return_token_type_ids=True, **({"return_offsets_mapping": True} if offsets else {}))
    found = ours.encode_batch(texts, offsets=offsets)
    for i, text in enumerate(texts):
        assert found[i].ids == expected["input_ids"][i], f"{note}: ids of {text!r}"
        assert found[i].type_ids == expected["token_type_ids"][i], f"{note}: types of {text!r}"
        if offsets:
            assert found[i].offsets == expected["offset_mapping"][i], f"{note}: offsets of {text!r}"
    pairs = [(a, b) for a, b in zip(texts[1::9], texts[5::9], strict=False) if b]
    firsts, seconds = ([pair[i] for pair in pairs] for i in (0, 1))
    expected = theirs(firsts, seconds, return_token_type_ids=True)
    for i, one in enumerate(ours.encode_batch(pairs)):
        assert one.ids == expected["input_ids"][i], f"{note}: ids of the pair {pairs[i]!r}"
        if offsets:
            assert one.type_ids == expected["token_type_ids"][i], f"{note}: types of the pair {pairs[i]!r}"
    for limit in (5, 9):
        expected = theirs(texts[:60], truncation=True, max_length=limit)["input_ids"]
        assert [one.ids for one in ours.encode_batch(texts[:60], max_length=limit)] == expected, (
            f"{note}: cut at {limit}"
        )
    for one in found[::7]:
        for skipped in (True, False):
            expected = theirs.decode(one.ids, skip_special_tokens=skipped)
            assert ours.decode(one.ids, skip_special_tokens=skipped) == expected, f"{note}: decoded {one.ids}"
    assert list(ours.input_names) == theirs.model_input_names, note
    assert ours.truncation_side == theirs.truncation_side and ours.padding_side == theirs.padding_side, note
    limit = theirs.model_max_length
    assert ours.max_length == (None if limit > 1e20 else limit), note
    for name in ("pad_token", "cls_token", "mask_token", "unk_token", "eos_token", "bos_token"):
        token = getattr(theirs, name)
        if token is not None:
            assert ours.special(name) == (token, getattr(theirs, f"{name}_id")), f"{note}: {name}"
    return True


@pytest.mark.parametrize("definition", [True, False], ids=["tokenizer.json", "older files"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [SOME, pytest.param(TEXTS, marks=pytest.mark.stress)], ids=len)
def test_settings(kind, definition, texts, tmp_path, trained):
    compared = 0
    # Mixtures that older files have, too, are left to the stress.
    mixtures = MIXTURES if definition or texts is TEXTS else []
    for number, settings in enumerate([*SETTINGS, *DECODERS, *mixtures]):
        folder = make_folder(tmp_path / str(number), trained(kind, definition), settings, kind)
        compared += assert_equal(folder, f"{kind}, {settings}", texts)
    assert compared > 30


@pytest.mark.parametrize("kind", KINDS)
def test_declared_class(kind, tmp_path, trained):
    """The class that tokenizer_config.json names, config.json's family, or neither."""
    names = (
        None,
        f"{kind}Fast",
        "PreTrainedTokenizerFast",
        "PreTrainedTokenizer",
        "NobodysTokenizer",
        "LlamaTokenizer",
    )
    for number, declared in enumerate(names):
        folder = make_folder(tmp_path / str(number), trained(kind, True), {}, declared)
        held = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"]
        if declared == "LlamaTokenizer" and held != "BPE" and kind not in ("TokenizersBackend",):
            with pytest.raises(CheckpointError, match=f"holds a {held} model, .* tokenizer_class is LlamaTokenizer"):
                read_tokenizer(folder)
        else:
            assert assert_equal(folder, f"{kind}, {declared}")


def write_marian(folder: Path) -> dict[str, int]:
    """Two SentencePiece models, and a vocabulary that lacks every other piece of the source."""
    import sentencepiece

    folder.mkdir()
    train_spm(folder, "source.spm", "unigram", vocab_size=300)
    train_spm(folder, "target.spm", "unigram", vocab_size=350)
    pieces = {}
    for name in ("source.spm", "target.spm"):
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        for i in range(3, model.get_piece_size(), 1 if name == "target.spm" else 2):
            pieces.setdefault(model.id_to_piece(i), None)
    vocab = {"</s>": 0, "<unk>": 1, **{piece: i + 2 for i, piece in enumerate(pieces)}}
    vocab |= {">>fr<<": len(vocab), ">>de<<": len(vocab) + 1, "<pad>": len(vocab) + 2}
    write(folder, "vocab.json", vocab)
    return vocab


@pytest.mark.parametrize("beams", [1, 3])
def test_marian_translates_token_for_token(tmp_path, beams):
    torch = pytest.importorskip("torch")
    from transformer_fast.pipelines import Translator

    folder = tmp_path / "marian"
    vocab = write_marian(folder)
    torch.manual_seed(0)
    size = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    ends = {"pad_token_id": vocab["<pad>"], "decoder_start_token_id": vocab["<pad>"], "eos_token_id": 0}
    config = transformers.MarianConfig(
        vocab_size=len(vocab),
        init_std=0.5,
        scale_embedding=True,
        forced_eos_token_id=0,
        num_beams=beams,
        **size,
        **heads,
        **ends,
    )
    transformers.MarianMTModel(config).save_pretrained(folder)
    write(folder, "tokenizer_config.json", {"source_lang": "en", "target_lang": "fr", "model_max_length": 60})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.MarianMTModel.from_pretrained(folder).eval()
    inputs = [text for text in TEXTS[:40] if text.strip()] + [">>fr<< one two three"]
    options = {"max_new_tokens": 20, "num_beams": beams}
    expected = []
    for text in inputs:
        batch = theirs([text], return_tensors="pt", truncation=True)
        with torch.no_grad():
            ids = model.generate(**batch, **options)
        expected.append(theirs.decode(ids[0], skip_special_tokens=True))
    found = Translator.from_pretrained(folder)(inputs, **options)
    assert [text.split() for text in found] == [text.split() for text in expected]
    assert len(set(found)) > 5


def test_marian(tmp_path):
    folder = tmp_path / "marian"
    vocab = write_marian(folder)
    write(folder, "config.json", {"model_type": "marian"})
    for settings in (
        {"source_lang": "en", "target_lang": "fr", "model_max_length": 512},
        {"tokenizer_class": "MarianTokenizer", "additional_special_tokens": ["<brand>"]},
        {"tokenizer_class": "MarianTokenizer", "added_tokens_decoder": {"3000": WIDE, "3001": ALONE}},
        {"tokenizer_class": "MarianTokenizer", "split_special_tokens": True, "truncation_side": "left"},
        {"tokenizer_class": "MarianTokenizer", "clean_up_tokenization_spaces": True, "eos_token": "</s>"},
    ):
        write(folder, "tokenizer_config.json", settings)
        assert assert_equal(folder, f"Marian, {settings}")
    assert read_tokenizer(folder).tokenizer.encode(">>fr<< one two").ids[0] == vocab[">>fr<<"]
