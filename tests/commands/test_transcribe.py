"""`transformer-fast transcribe` with the golden Whisper model and a vocabulary and a WAV file that the test writes."""

from __future__ import annotations

import json
import wave
from itertools import pairwise

import pytest
from seq2seq_golden import GOLDEN, changed
from seq2seq_models import VOCAB, sound

from transformer_fast import cli, load_model
from transformer_fast.files.sound import WhisperFeatureExtractor, read_wav
from transformer_fast.pipelines.transcriber import _quietest

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("soxr")
RATE = 8000  # the model's is 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = changed("whisper", tmp_path_factory.mktemp("whisper") / "m")
    settings = {"feature_size": 6, "chunk_length": 1, "hop_length": 1000}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    words = {f"w{i}": i for i in range(VOCAB)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w2")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """2.5 s, so at least three segments."""
    path = tmp_path_factory.mktemp("sound") / "speech.wav"
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes((sound(2.5, RATE) * 32767).astype("<i2").tobytes())
    return path


def texts(folder, recording, **options):
    """The same by hand: a text for each part, and the place where the next one begins, in seconds."""
    model, extractor = load_model(folder), WhisperFeatureExtractor.from_pretrained(folder)
    samples, rate, cuts = read_wav(recording, 16000), 16000, [0]
    while len(samples) - cuts[-1] > rate:
        cuts.append(cuts[-1] + _quietest(samples[cuts[-1] : cuts[-1] + rate], rate // 5))
    cuts.append(len(samples))
    rows = [model.generate(**extractor(samples[i:j]), **options)[0] for i, j in pairwise(cuts)]
    return [" ".join(f"w{token}" for token in row) for row in rows], [cut / rate for cut in cuts]


@pytest.mark.parametrize(
    "arguments, options",
    [
        ([], {}),
        (["--language", "de"], {"language": "de"}),
        (["--translate", "--beams", "2"], {"task": "translate", "num_beams": 2}),
    ],
)
def test_transcribe(capsys, folder, recording, arguments, options):
    assert cli.main(["transcribe", str(recording), "--model", str(folder), *arguments]) in (0, None)
    out, err = capsys.readouterr()
    assert out.splitlines() == texts(folder, recording, **options)[0]
    assert "2.5 s of sound" in err


def test_json(capsys, folder, recording):
    cli.main(["transcribe", str(recording), "--model", str(folder), "--json"])
    result = json.loads(capsys.readouterr().out)
    expected, cuts = texts(folder, recording)
    assert [segment["text"] for segment in result["segments"]] == expected
    assert result["text"] == " ".join(expected)
    assert [(segment["start"], segment["end"]) for segment in result["segments"]] == list(pairwise(cuts))
    assert cuts[-1] == 2.5
    assert result["file"] == str(recording) and result["seconds"] > 0


def test_refusals(capsys, folder, recording, tmp_path):
    def error(*arguments):
        code = cli.main(["transcribe", *map(str, arguments)])
        assert code not in (0, None)
        return capsys.readouterr().err

    assert "needs a Whisper model" in error(recording, "--model", GOLDEN / "bart")
    assert "missing.wav" in error(tmp_path / "missing.wav", "--model", folder)
    assert "klingon" in error(recording, "--model", folder, "--language", "klingon")
    empty = tmp_path / "empty.wav"
    with wave.open(str(empty), "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
    assert "holds no sound" in error(empty, "--model", folder)
