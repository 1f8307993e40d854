"""sound.py: WAV files that the test writes, resampling, and log-mel features against transformers' (golden)."""

from __future__ import annotations

import io
import json
import struct
import sys
import wave

import numpy as np
import pytest
from seq2seq_golden import GOLDEN
from seq2seq_models import sound

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.sound import WhisperFeatureExtractor, mel_filter_bank, read_audio, read_wav, resample

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


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    """A RIFF file of (id, content), padded; size: what it says of itself."""
    body = b"WAVE"
    for name, content in chunks:
        body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def fmt(coding: int, bits: int, channels: int = 1, extensible: bool = False, container: int | None = None) -> bytes:
    block = channels * (container or bits) // 8
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else coding, channels, 16000, 16000 * block, block, bits)
    if extensible:
        head += struct.pack("<HHIH", 22, bits, 4, coding) + bytes.fromhex("000000001000800000aa00389b71")
    return head


def coded(samples: np.ndarray, coding: int, bits: int) -> bytes:
    """samples, multiples of 1/128, as the content of a chunk "data"."""
    if coding == 3:
        return samples.astype(f"<f{bits // 8}").tobytes()
    return wav(samples.reshape(len(samples), -1), bits).getvalue()[44:]


CODINGS = [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)]


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("coding, bits", CODINGS)
def test_codings_of_wav(coding, bits, channels, extensible):
    samples = np.tile(SAMPLES, 2)[:, :channels]
    data = coded(samples, coding, bits)
    content = riff((b"fmt ", fmt(coding, bits, channels, extensible)), (b"data", data))
    read = read_wav(io.BytesIO(content))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, samples.mean(axis=1), atol=1e-7)
    assert np.array_equal(read_audio(io.BytesIO(content)), read)


def test_containers_wider_than_their_samples():
    data = coded(SAMPLES[:, 0], 1, 32)
    for extensible in (False, True):
        content = riff((b"fmt ", fmt(1, 24, 1, extensible, container=32)), (b"data", data))
        assert np.array_equal(read_wav(io.BytesIO(content)), SAMPLES[:, 0])
    content = riff((b"fmt ", fmt(1, 12, 1, container=16)), (b"data", coded(SAMPLES[:, 0], 1, 16)))
    assert np.array_equal(read_wav(io.BytesIO(content)), SAMPLES[:, 0])


def test_chunks_around_the_sound():
    head, data = (b"fmt ", fmt(1, 8)), (b"data", coded(SAMPLES[:, 0], 1, 8))
    odd, even = (b"LIST", b"abc"), (b"fact", b"abcd")
    for chunks in ([odd, head, data], [head, odd, odd, data, odd], [even, head, even, data, odd, even], [head, data]):
        assert np.array_equal(read_wav(io.BytesIO(riff(*chunks))), SAMPLES[:, 0])
        for size in (0, 0xFFFFFFFF, 36):
            assert np.array_equal(read_wav(io.BytesIO(riff(*chunks, size=size))), SAMPLES[:, 0])
    unpadded = riff(odd, head, data).replace(b"abc\0", b"abc")
    assert np.array_equal(read_wav(io.BytesIO(unpadded)), SAMPLES[:, 0])
    stray = riff((b"fmt ", fmt(1, 16)), (b"data", coded(SAMPLES[:, 0], 1, 16) + b"x"))
    assert np.array_equal(read_wav(io.BytesIO(stray)), SAMPLES[:, 0])


@pytest.mark.parametrize("whole", [0, 0xFFFFFFFF, 36, 0x7FFFFFFF])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_sizes_of_a_pipe(whole, size):
    """What programs write that cannot go back to fill the sizes in: the sound is all that follows."""
    content = bytearray(riff((b"fmt ", fmt(1, 16)), (b"data", coded(SAMPLES[:, 0], 1, 16)), size=whole))
    content[40:44] = struct.pack("<I", size)
    assert np.array_equal(read_wav(io.BytesIO(bytes(content))), SAMPLES[:, 0])
    assert np.array_equal(read_wav(io.BytesIO(bytes(content) + b"x")), SAMPLES[:, 0])


def test_a_size_of_0_that_is_true():
    content = riff((b"fmt ", fmt(1, 16)), (b"data", b""), (b"LIST", b"abcdefgh"))
    assert read_wav(io.BytesIO(content)).shape == (0,)


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "holds 0 bytes"),
        (b"fLaC" + bytes(40), "begins with b'fLaC"),
        (b"RIFF\0\0\0\0AVI " + bytes(40), "begins with"),
        (riff(), "has no chunk 'fmt '"),
        (riff((b"fmt ", fmt(1, 16))), "has no chunk 'data'"),
        (riff((b"data", b"abcd")), "no chunk 'fmt ' before"),
        (riff((b"fmt ", fmt(1, 16)[:14]), (b"data", b"")), "'fmt ' has 14 bytes"),
        (riff((b"fmt ", fmt(1, 16, 0)), (b"data", b"")), "has 0 channels"),
        (riff((b"fmt ", fmt(7, 8)), (b"data", b"abcd")), "coding 0x0007 and 8 bits"),
        (riff((b"fmt ", fmt(3, 16)), (b"data", b"abcd")), "coding 0x0003 and 16 bits"),
        (riff((b"fmt ", fmt(1, 16)), (b"data", b"abcdef"))[:-2], "cut off: it holds 4 bytes of sound; needed .*: 6"),
    ],
)
def test_what_is_wrong_with_a_wav_file(content, text):
    with pytest.raises(ValueError, match=f"the file: .*{text}"):
        read_wav(io.BytesIO(content))


@pytest.mark.parametrize(
    "kind, options", [("FLAC", {"subtype": "PCM_24"}), ("OGG", {}), ("MP3", {}), ("WAV", {"subtype": "ULAW"})]
)
def test_other_containers(tmp_path, kind, options):
    soundfile = pytest.importorskip("soundfile")
    t = np.arange(16000) / 16000
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    path = tmp_path / f"tone.{kind.lower()}"
    soundfile.write(path, np.stack([tone, tone], axis=1), 16000, format=kind, **options)
    read = read_audio(path)
    assert read.dtype == np.float32 and read.ndim == 1
    # Codecs of MP3 put some silence before the sound; a period of the tone has 36 samples.
    best = max(np.corrcoef(read[i : i + 9000], tone[3000:12000])[0, 1] for i in range(3000, 3037))
    assert best > 0.999
    assert np.array_equal(read_audio(io.BytesIO(path.read_bytes())), read)
    if kind == "FLAC":
        np.testing.assert_allclose(read, tone, atol=1e-6)
    with pytest.raises(ValueError, match="begins with|coding 0x0007"):
        read_wav(path)


def test_what_soundfile_cannot_read(tmp_path, monkeypatch):
    path = tmp_path / "sound.ogg"
    path.write_bytes(b"OggS" + bytes(100))
    with pytest.raises(FileNotFoundError):
        read_audio(tmp_path / "missing.flac")
    with pytest.raises(TypeError, match="opened for reading bytes"):
        read_audio(io.StringIO("sound"))
    with pytest.raises(ValueError, match="holds 0 bytes"):
        read_audio(io.BytesIO(b""))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "soundfile", None)
        with pytest.raises(ImportError, match=r"soundfile is not installed; .*sound.ogg.*transformer-fast\[audio\]"):
            read_audio(path)
        patch.setitem(sys.modules, "soxr", None)
        with pytest.raises(ImportError, match=r"soxr is not installed; needed to change 8 Hz to 4 Hz"):
            resample(np.zeros(9), 8, 4)
    pytest.importorskip("soundfile")
    with pytest.raises(ValueError, match="sound.ogg: cannot be read as sound"):
        read_audio(path)


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
    pytest.importorskip("soxr")
    t = np.arange(48000) / 48000
    tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    result = resample(tone, 48000, 16000)
    assert result.dtype == np.float32 and result.shape == (16000,)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(result - expected)[200:-200].max() < 2e-6
    assert resample(tone[:100], 44100, 16000).shape == (37,)
    assert resample(tone, 48000, 48000) is tone
    stereo = wav(np.tile(tone[:4800, None] / 2, 2), 16, 48000)
    assert read_wav(stereo, sampling_rate=16000).shape == (1600,)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_keeps_what_fits_and_drops_the_rest(rate):
    pytest.importorskip("soxr")
    seconds, middle = np.arange(rate) / rate, slice(300, -300)
    for hertz in (50, 440, 3000):
        result = resample(np.sin(2 * np.pi * hertz * seconds).astype(np.float32), rate, 16000)
        assert result.shape == (16000,)
        expected = np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)
        assert np.abs(result - expected)[middle].max() < 2e-6
    if rate > 20000:  # 9 kHz does not fit: it would be heard as 7 kHz
        assert np.abs(resample(np.sin(2 * np.pi * 9000 * seconds), rate, 16000)[middle]).max() < 2e-5


@pytest.mark.parametrize("n", [1, 2, 3, 100, 101])
def test_lengths_of_resampled_sound(n):
    pytest.importorskip("soxr")
    for rate, new_rate in ((44100, 16000), (8000, 16000), (48000, 16000), (11025, 16000), (16000, 44100)):
        assert resample(np.ones(n, np.float32), rate, new_rate).shape == (-(-n * new_rate // rate),)


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
    assert np.array_equal(extractor([short.tolist(), long.tolist()])["input_features"], both)
    assert np.array_equal(extractor([short.tolist(), short.tolist()])["input_features"], both[[0, 0]])
    nothing = extractor([short[:0], short[:0]])["input_features"]
    assert nothing.shape == (2, 10, 100) and np.array_equal(nothing[0], extractor(short[:0])["input_features"][0])


@pytest.mark.parametrize("shape", [(5, 2), (16000, 2), (16000, 1), (2, 2), (1, 6), (200, 24), (2, 8)])
def test_sound_of_several_channels_is_refused(shape):
    extractor = WhisperFeatureExtractor(feature_size=10)
    samples = np.zeros(shape, np.float32)
    for given in (samples, samples.astype(np.float64), samples.tolist()):
        with pytest.raises(ValueError, match=r"raw_speech has shape .*needed: mono \(n,\)"):
            extractor(given)
    with pytest.raises(ValueError, match=r"raw_speech has shape .*one channel"):
        extractor([samples, samples])


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
        ("feature_size", 2**24),  # features of 200 GB
        ("hop_length", 480_001),  # no frame
        ("padding_value", 1e300),
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


def test_settings_of_a_processor(tmp_path):
    """transformers 5 writes one file for the extractor and the tokenizer."""
    content = json.loads((GOLDEN / "whisper" / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content | {"feature_size": 9}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "WhisperProcessor"}))
    assert WhisperFeatureExtractor.from_pretrained(tmp_path).feature_size == 9
    nested = {"processor_class": "WhisperProcessor", "feature_extractor": content}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    expected = WhisperFeatureExtractor.from_pretrained(GOLDEN / "whisper")
    for _ in range(2):
        got = WhisperFeatureExtractor.from_pretrained(tmp_path)
        assert (got.feature_size, got.n_samples) == (expected.feature_size, expected.n_samples)
        (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": content | {"dither": 1.0}}))
    with pytest.raises(CheckpointError, match="processor_config.json: dither"):
        WhisperFeatureExtractor.from_pretrained(tmp_path)


def test_missing_settings(tmp_path):
    with pytest.raises(CheckpointError, match="preprocessor_config.json"):
        WhisperFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="chunk_length"):
        WhisperFeatureExtractor(chunk_length=1, sampling_rate=100)
