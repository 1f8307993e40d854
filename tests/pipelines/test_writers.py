"""Summariser, Translator and Transcriber with the golden checkpoints of encoder-decoders: what they add to generate."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from model_folders import write_json
from pipeline_folders import write_head

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
from transformer_fast.files.sound import resample
from transformer_fast.pipelines import Summariser, Transcriber, Translator, transcriber

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

GOLDEN = Path(__file__).parent.parent / "golden" / "seq2seq"
VOCAB = 24
WORDS = [f"w{i}" for i in range(VOCAB)]
WORDS[:4] = ["<s>", "<pad>", "</s>", "<unk>"]
TEXTS = ["w5 w9 w7", "w11", "", "w4 w6 w8 w10 w12 w14 w16"]


def write_words(folder: Path, end: int, **config) -> None:
    """A tokenizer whose words are w0, w1, ...; `end` follows each text."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"$A {WORDS[end]}", special_tokens=[(WORDS[end], end)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config})


@pytest.fixture
def bart(tmp_path):
    folder = tmp_path / "bart"
    shutil.copytree(GOLDEN / "bart", folder)
    write_words(folder, 2)
    return folder


@pytest.fixture
def t5(tmp_path):
    folder = tmp_path / "t5"
    shutil.copytree(GOLDEN / "t5", folder)
    write_words(folder, 1)
    tasks = {
        "summarization": {"prefix": "w20 ", "max_length": 9, "num_beams": 2},
        "translation_en_to_de": {"prefix": "w21 w22 ", "max_new_tokens": 6},
    }
    write_json(folder / "config.json", {**read_json_object(folder / "config.json"), "task_specific_params": tasks})
    return folder


def by_hand(folder, text, end, **options):
    """The tokens of one text through the model's own generate, and back."""
    ids = np.array([[*map(WORDS.index, text.split()), end]])
    row = load_model(folder).generate(ids, **options)[0]
    return " ".join(WORDS[i] for i in row if i > 2)


# ----------------------------------------------------------------------------------------------------------------------
# Summariser, Translator


def test_summaries_are_what_the_model_generates(isa, bart):
    summarise = Summariser.from_pretrained(bart)
    options = {"max_new_tokens": 8, "num_beams": 2}
    expected = [by_hand(bart, text, 2, **options) for text in TEXTS]
    assert any(expected) and len(set(expected)) > 1
    assert summarise(TEXTS, **options) == expected
    assert summarise(TEXTS[0], **options) == expected[0]
    assert summarise([]) == []


def test_a_task_brings_its_prefix_and_options(t5):
    summarise = Summariser.from_pretrained(t5)
    assert summarise.prefix == "w20 " and summarise.options == {"max_length": 9, "num_beams": 2}
    expected = [by_hand(t5, f"w20 {text}", 1, max_length=9, num_beams=2) for text in TEXTS]
    assert summarise(TEXTS) == expected
    assert summarise(TEXTS[0], num_beams=1) == by_hand(t5, f"w20 {TEXTS[0]}", 1, max_length=9, num_beams=1)
    translate = Translator.from_pretrained(t5, source="en", target="de")
    assert translate(TEXTS[0]) == by_hand(t5, f"w21 w22 {TEXTS[0]}", 1, max_new_tokens=6)
    plain = Translator.from_pretrained(t5)
    assert plain.prefix == "" and plain(TEXTS[1], max_new_tokens=5) == by_hand(t5, TEXTS[1], 1, max_new_tokens=5)


def test_what_a_model_cannot_take_is_cut_off(bart):
    summarise = Summariser.from_pretrained(bart)
    assert summarise.max_length == 16
    long = " ".join(["w5", "w9"] * 20)
    expected = by_hand(bart, " ".join(["w5", "w9"] * 7 + ["w5"]), 2, max_new_tokens=5)
    assert summarise(long, max_new_tokens=5) == expected
    with pytest.raises(ValueError, match="has 41 tokens; needed: at most 16"):
        summarise(long, truncation=False)


def test_folders_and_calls_that_do_not_fit(tmp_path, bart, t5):
    with pytest.raises(CheckpointError, match="holds a BertForMaskedLM; Summariser needs an encoder-decoder"):
        Summariser.from_pretrained(write_head(tmp_path / "bert", "MaskedLM"))
    with pytest.raises(CheckpointError, match="holds a WhisperForConditionalGeneration; Translator needs"):
        Translator.from_pretrained(GOLDEN / "whisper")
    with pytest.raises(ValueError, match="source is 'en' and target 'fr'; .*config.json has no translation_en_to_fr"):
        Translator.from_pretrained(t5, source="en", target="fr")
    with pytest.raises(ValueError, match="source is 'en' and target None; needed: both or neither"):
        Translator.from_pretrained(t5, source="en")
    config = read_json_object(bart / "config.json")
    write_json(bart / "config.json", {**config, "task_specific_params": {"summarization": 5}})
    with pytest.raises(CheckpointError, match="task_specific_params is .*; needed: an object of objects"):
        Summariser.from_pretrained(bart)
    summarise = Summariser.from_pretrained(t5)
    with pytest.raises(ValueError, match="num_return_sequences is given"):
        summarise(TEXTS, num_return_sequences=2)
    with pytest.raises(TypeError, match=r"texts\[1\] is a int"):
        summarise(["a", 5])


# ----------------------------------------------------------------------------------------------------------------------
# Transcriber: the golden model hears 16 frames, here of a quarter of a second


@pytest.fixture
def whisper(tmp_path):
    folder = tmp_path / "whisper"
    shutil.copytree(GOLDEN / "whisper", folder)
    write_words(folder, 2)
    settings = {"feature_size": 6, "chunk_length": 4, "hop_length": 4000}
    write_json(folder / "preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor", **settings})
    return folder


@pytest.fixture
def transcribe(whisper):
    made = Transcriber.from_pretrained(whisper)
    extractor = made.extractor
    assert extractor.n_samples // extractor.hop_length == 2 * made.model.config.max_source_positions
    return made


def sound(n, seed=0):
    return (np.random.default_rng([seed, n]).standard_normal(n) * 0.3).astype(np.float32)


def text_of(transcribe, segment, **options):
    row = transcribe.model.generate(**transcribe.extractor(segment), **options)[0]
    return transcribe._tokenizer.decode(row.tolist(), skip_special_tokens=True)


def test_short_recordings(transcribe, tmp_path):
    options = {"language": "en", "max_new_tokens": 6}
    n = transcribe.extractor.n_samples
    recordings = [sound(n, seed) for seed in range(6)] + [sound(n // 3), sound(0)]
    expected = [text_of(transcribe, recording, **options) for recording in recordings]
    assert any(expected)
    assert transcribe(recordings, **options) == expected
    assert transcribe(recordings[0], **options) == expected[0]
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(transcribe.extractor.sampling_rate)
        writer.writeframes((recordings[0] * 20000).clip(-32768, 32767).astype("<i2").tobytes())
    assert isinstance(transcribe(path, **options), str) and transcribe([str(path)], **options) == [
        transcribe(path, **options)
    ]


def test_files_of_other_kinds(transcribe, tmp_path):
    """A FLAC file at another rate, of two channels: what it holds as mono, at the model's rate."""
    soundfile, _ = pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    samples = np.stack([sound(20000, 1), sound(20000, 2)], axis=1).clip(-1, 0.99)
    soundfile.write(tmp_path / "a.flac", samples, 8000, subtype="PCM_24")
    rate = transcribe.extractor.sampling_rate
    expected = transcribe(resample(samples.mean(axis=1), 8000, rate), language="de", max_new_tokens=6)
    assert expected and transcribe(tmp_path / "a.flac", language="German", max_new_tokens=6) == expected


def test_long_recordings_are_cut_where_they_are_quiet(transcribe):
    n, rate = transcribe.extractor.n_samples, transcribe.extractor.sampling_rate
    long = sound(2 * n + n // 2)
    pauses = [int(0.9 * n), int(1.8 * n)]
    half = int(rate * transcriber._STRETCH) // 2
    for pause in pauses:
        long[pause - half : pause + half + 2] = 0
    segments = transcribe._segments(long)
    np.testing.assert_array_equal(np.concatenate(segments), long)
    assert all(0 < len(segment) <= n for segment in segments)
    assert abs(len(segments[0]) - pauses[0]) <= 2 and abs(sum(map(len, segments[:2])) - pauses[1]) <= 2
    options = {"language": "de", "max_new_tokens": 4}
    parts = [text_of(transcribe, segment, **options) for segment in segments]
    assert transcribe(long, **options) == " ".join(part for part in parts if part)
    streamed = list(transcribe.stream(long, **options))
    assert [part.text for part in streamed] == parts
    assert [part.start for part in streamed] == [0, *(part.end for part in streamed[:-1])]
    assert streamed[-1].end == len(long) / rate
    assert len(transcribe._segments(sound(n))) == 1 and len(transcribe._segments(sound(0))) == 1


@pytest.mark.parametrize(
    "sounds, error, text",
    [
        (5, TypeError, "sounds is a int; needed: a path, samples"),
        ([np.zeros((2, 5), np.float32)], TypeError, r"sounds\[0\] has shape \(2, 5\)"),
        (
            np.zeros((5000, 2), np.float32),
            ValueError,
            r"sounds has shape \(5000, 2\), as sound of 2 channels has; needed",
        ),
        (np.zeros(5, np.int16), TypeError, r"sounds\[0\] has shape \(5,\) and dtype int16"),
        ([None], TypeError, r"sounds\[0\] has <class 'NoneType'>"),
        ("missing.wav", OSError, "missing.wav"),
    ],
)
def test_bad_sounds(transcribe, sounds, error, text):
    with pytest.raises(error, match=text):
        transcribe(sounds)


def test_a_transcriber_needs_whisper(bart):
    with pytest.raises(
        CheckpointError, match="holds a BartForConditionalGeneration; Transcriber needs a Whisper model"
    ):
        Transcriber.from_pretrained(bart)
