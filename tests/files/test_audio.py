"""sound.py: WAV files that the test writes, resampling, and log-mel features against transformers' (golden)."""

from __future__ import annotations

import io
import json
import wave

import numpy as np
import pytest
from seq2seq_golden import GOLDEN
from seq2seq_models import sound

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.sound import WhisperFeatureExtractor, mel_filter_bank, read_wav, resample

SAMPLES = np.array([[0.0, 0.5], [0.25, -0.25], [-1.0, -1.0], [0.75, 0.25], [-0.5, 0.0]])  # (n, channels)


def wav(samples: np.ndarray, bits: int, rate: int = 16000) -> io.BytesIO:
    """samples (n, channels), multiples of 1/128, as a WAV file."""
    scaled = np.round(samples * 2 ** (bits - 1)).astype(np.int64)
    if bits == 8:
        data = (scaled + 128).astype(np.uint8).tobytes()
    else:
        data = b"".join(int(v).to_bytes(bits // 8, "little", signed=True) for v in scaled.ravel())
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(samples.shape[1])
        writer.setsampwidth(bits // 8)
        writer.setframerate(rate)
        writer.writeframes(data)
    file.seek(0)
    return file


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav(tmp_path, bits, channels):
    samples = SAMPLES[:, :channels]
    read = read_wav(wav(samples, bits))
    assert read.dtype == np.float32
    assert np.array_equal(read, samples.mean(axis=1).astype(np.float32))
    path = tmp_path / "sound.wav"
    path.write_bytes(wav(samples, bits).getvalue())
    for name in (path, str(path)):
        assert np.array_equal(read_wav(name), read)


def test_wav_of_no_samples():
    assert read_wav(wav(SAMPLES[:0], 16), sampling_rate=8000).shape == (0,)


def test_bad_wav(tmp_path):
    content = wav(SAMPLES, 16).getvalue()
    floats = bytearray(content)
    floats[20] = 3  # WAVE_FORMAT_IEEE_FLOAT
    for i, data in enumerate((b"", b"RIFF", b"no sound at all" * 9, bytes(floats), content[:-6])):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"{i}.wav"):
            read_wav(path)
    with pytest.raises(FileNotFoundError):
        read_wav(tmp_path / "missing.wav")


def test_resampling_keeps_a_tone():
    pytest.importorskip("scipy")
    t = np.arange(48000) / 48000
    tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    result = resample(tone, 48000, 16000)
    assert result.dtype == np.float32 and result.shape == (16000,)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(result - expected)[200:-200].max() < 2e-3
    assert resample(tone[:100], 44100, 16000).shape == (37,)
    assert resample(tone, 48000, 48000) is tone
    stereo = wav(np.tile(tone[:4800, None] / 2, 2), 16, 48000)
    assert read_wav(stereo, sampling_rate=16000).shape == (1600,)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ((np.zeros(3, np.float32), 0, 8), ValueError, "rate is 0"),
        ((np.zeros(3, np.float32), 8, 8.5), ValueError, "new_rate is 8.5"),
        ((np.zeros((2, 3), np.float32), 8, 8), ValueError, "one channel"),
        ((np.array(["a"]), 8, 8), TypeError, "numbers"),
    ],
)
def test_bad_resampling(arguments, error, text):
    with pytest.raises(error, match=text):
        resample(*arguments)


def test_features():
    golden = np.load(GOLDEN / "features.npz")
    extractor = WhisperFeatureExtractor.from_pretrained(GOLDEN / "whisper")
    features = extractor(sound(), sampling_rate=16000)["input_features"]
    assert features.dtype == np.float32 and features.shape == (1, 20, 20)
    np.testing.assert_allclose(features, golden["exact"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(features, golden["features"], atol=1e-4, rtol=0)


def test_features_of_several_sounds():
    extractor = WhisperFeatureExtractor(chunk_length=1, feature_size=10)
    short, long = sound(0.3), sound(1.6)
    both = extractor([short, long])["input_features"]
    assert both.shape == (2, 10, 100)
    assert np.array_equal(both[0], extractor(short)["input_features"][0])
    assert np.array_equal(both[1], extractor(long[:16000])["input_features"][0])
    assert np.array_equal(extractor(np.stack([short, short]))["input_features"], both[[0, 0]])
    assert np.array_equal(extractor(short.tolist())["input_features"], both[:1])


def test_filters_cover_the_range():
    filters = mel_filter_bank(201, 80, 16000)
    assert filters.shape == (201, 80) and (filters >= 0).all() and (filters.max(axis=0) > 0).all()


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda e: e(np.zeros(9, np.float32), sampling_rate=8000), ValueError, "sampling_rate is 8000; needed: 16000"),
        (lambda e: e(np.zeros((2, 3, 4), np.float32)), ValueError, "one channel"),
        (lambda e: e(["sound"]), TypeError, "numbers"),
    ],
)
def test_bad_sound(call, error, text):
    with pytest.raises(error, match=text):
        call(WhisperFeatureExtractor(chunk_length=1))


@pytest.mark.parametrize(
    "setting, value",
    [
        ("dither", 0.1),
        ("n_fft", 0),
        ("feature_size", "80"),
        ("padding_value", None),
        ("chunk_length", 2**25),
        ("do_normalize", True),
        ("feature_extractor_type", "Wav2Vec2FeatureExtractor"),
    ],
)
def test_refused_settings(tmp_path, setting, value):
    content = json.loads((GOLDEN / "whisper" / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content | {setting: value}))
    with pytest.raises(CheckpointError, match=setting):
        WhisperFeatureExtractor.from_pretrained(tmp_path)


def test_missing_settings(tmp_path):
    with pytest.raises(CheckpointError, match="preprocessor_config.json"):
        WhisperFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="chunk_length"):
        WhisperFeatureExtractor(chunk_length=1, sampling_rate=100)
