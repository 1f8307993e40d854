"""Sound for speech models: reading sound files, changing the sampling rate, and Whisper's log-mel features.

Users and transcribing commands call it, and give the features to Whisper; it knows no model. WAV files are read by
`files.wav`, other containers by the package soundfile, and soxr changes the rate: both are the extra `audio`.

Source: Radford et al. 2022, https://arxiv.org/abs/2212.04356, transformers' WhisperFeatureExtractor and audio_utils.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from transformer_fast.files import wav
from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource

# log10 of the least power that counts, and how far below a segment's loudest point values are cut.
_LEAST_POWER = 1e-10
_RANGE = 8.0
# Slaney's mel scale: linear up to 1000 Hz, which is mel 15, then 27 mels for a factor of 6.4.
_LINEAR_HZ, _LINEAR_MEL = 1000.0, 15.0
_LOG_STEP = math.log(6.4) / 27
# Numbers of the filters and of one segment's features, 256 MB: Whisper's largest has 128 x 3000.
_MOST_FEATURES = 2**26
# An array (m, n) with n up to this is taken for sound of n channels, not for m recordings.
_MOST_CHANNELS = 8


def read_audio(file: str | Path | BinaryIO, sampling_rate: int | None = None) -> np.ndarray:
    """The samples of a sound file as mono, float32 (n,): WAV, FLAC, OGG, MP3 and whatever else soundfile can read.

    file: a path, or a file opened for reading bytes. The mean of several channels is taken. sampling_rate: what the
    result should have; by default the file's own. WAV files of PCM or floats need no further package.

    Raises:
        ValueError: the file holds no sound that can be read, or is cut off; the text names it.
        OSError: it cannot be read.
        ImportError: it needs soundfile, or another rate soxr, which is not installed.

    Example:
        >>> samples = read_audio("speech.flac", sampling_rate=16000)                                  # doctest: +SKIP
    """
    name, content = _content(file)
    if wav.is_wav(content) or not content:
        try:
            return _mono(*wav.read(content, name), sampling_rate)
        except wav.UnknownCoding:
            pass  # soundfile knows some of them
    soundfile = optional_import("soundfile", "audio", f"to read {name}, which is not WAV of PCM or floats")
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except RuntimeError as error:  # soundfile.LibsndfileError
        raise ValueError(f"{name}: cannot be read as sound: {str(error).strip()}") from None
    return _mono(samples, rate, sampling_rate)


def read_wav(file: str | Path | BinaryIO, sampling_rate: int | None = None) -> np.ndarray:
    """As `read_audio`, for WAV files alone: PCM of 8, 16, 24 or 32 bits, in [-1, 1), and floats of 32 or 64.

    Raises:
        ValueError: the file is no such WAV file, or is cut off; the text names it.
        OSError: it cannot be read.
        ImportError: another rate needs soxr, which is not installed.

    Example:
        >>> samples = read_wav("speech.wav", sampling_rate=16000)                                     # doctest: +SKIP
    """
    name, content = _content(file)
    return _mono(*wav.read(content, name), sampling_rate)


def _content(file: str | Path | BinaryIO) -> tuple[str, bytes]:
    """A name for errors, and all bytes."""
    if hasattr(file, "read"):
        content = file.read()
        if not isinstance(content, bytes):
            raise TypeError(f"file gives {type(content).__name__}; needed: a file opened for reading bytes")
        return str(getattr(file, "name", "the file")), content
    return os.fspath(file), Path(file).read_bytes()


def _mono(samples: np.ndarray, rate: int, sampling_rate: int | None) -> np.ndarray:
    """(n, channels) at `rate` Hz -> (m,) at sampling_rate."""
    samples = samples.mean(axis=1, dtype=np.float32)
    return samples if sampling_rate is None else resample(samples, rate, sampling_rate)


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Samples (n,) at `rate` Hz -> (ceil(n * new_rate / rate),) at `new_rate` Hz, by soxr ("HQ"); float32.

    Raises:
        ValueError: a rate is not positive, or samples has more than one axis.
        ImportError: soxr is not installed.

    Example:
        >>> resample(np.zeros(8, np.float32), 8000, 8000).shape
        (8,)
    """
    samples = _samples("samples", samples)
    for name, value in (("rate", rate), ("new_rate", new_rate)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} is {value!r}; needed: an integer of at least 1 (Hz)")
    if rate == new_rate or not len(samples):
        return samples
    soxr = optional_import("soxr", "audio", f"to change {rate} Hz to {new_rate} Hz")
    # "HQ" errs by 1e-6 of the amplitude, less than the last of 16 bits.
    result = soxr.resample(np.ascontiguousarray(samples), rate, new_rate, quality="HQ")
    # soxr rounds the number of samples.
    length = -(-len(samples) * int(new_rate) // int(rate))
    return np.pad(result[:length], (0, max(0, length - len(result))), mode="edge" if len(result) else "constant")


class WhisperFeatureExtractor:
    """Log-mel features of sound, as transformers' WhisperFeatureExtractor with its settings' names and defaults.

    A segment is cut or padded with padding_value to chunk_length seconds, and looked at every hop_length samples
    through a window of n_fft samples. dither (noise) is not supported.

    Raises:
        ValueError: a setting is out of range or not supported.

    Example:
        >>> extractor = WhisperFeatureExtractor(chunk_length=1)
        >>> extractor(np.zeros(8000, np.float32), sampling_rate=16000)["input_features"].shape
        (1, 80, 100)
    """

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        chunk_length: int = 30,
        n_fft: int = 400,
        padding_value: float = 0.0,
        dither: float = 0.0,
    ) -> None:
        sizes = {
            "feature_size": feature_size,
            "sampling_rate": sampling_rate,
            "hop_length": hop_length,
            "chunk_length": chunk_length,
            "n_fft": n_fft,
        }
        for name, value in sizes.items():
            if type(value) is not int or not 1 <= value <= 2**24:
                raise ValueError(f"{name} is {value!r}; needed: an integer from 1 to {2**24}")
        most = float(np.finfo(np.float32).max)
        if type(padding_value) not in (int, float) or not abs(padding_value) <= most:
            raise ValueError(f"padding_value is {padding_value!r}; needed: a number from {-most} to {most}")
        if dither != 0:
            raise ValueError(f"dither is {dither!r}, which is not supported; needed: 0.0")
        if chunk_length * sampling_rate <= n_fft:
            raise ValueError(
                f"chunk_length is {chunk_length} s of {sampling_rate} Hz; needed: more samples than n_fft={n_fft}"
            )
        frames = chunk_length * sampling_rate // hop_length
        if not frames or feature_size * (n_fft + frames) > _MOST_FEATURES:
            raise ValueError(
                f"feature_size is {feature_size}, n_fft {n_fft} and hop_length {hop_length}, which gives {frames} "
                f"frames; needed: at least 1, and features of at most {_MOST_FEATURES} numbers"
            )
        self.feature_size, self.sampling_rate, self.hop_length = feature_size, sampling_rate, hop_length
        self.chunk_length, self.n_fft, self.padding_value = chunk_length, n_fft, padding_value
        self.n_samples = chunk_length * sampling_rate
        self.mel_filters = mel_filter_bank(1 + n_fft // 2, feature_size, sampling_rate)
        self._window = np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2  # Hann, periodic

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path | ModelSource, **hub: Any) -> WhisperFeatureExtractor:
        """With the settings of processor_config.json, where it has them, else of preprocessor_config.json.

        path_or_hub_id and hub: of `load_model`.

        Raises:
            CheckpointError: there is no such file, or it is malformed or asks for what is not supported.
        """
        source = open_source(path_or_hub_id, **hub)
        name = "processor_config.json"
        content = source.object(name, required=False).get("feature_extractor")
        if not isinstance(content, dict):
            name = "preprocessor_config.json"
            content = source.object(name)
        source = source.place(name)
        kind = content.get("feature_extractor_type", cls.__name__)
        if kind != cls.__name__:
            raise CheckpointError(f"{source}: feature_extractor_type is {kind!r}; needed: {cls.__name__!r}")
        if content.get("do_normalize") not in (None, False):
            raise CheckpointError(f"{source}: do_normalize is {content['do_normalize']!r}; needed: false")
        names = cls.__init__.__code__.co_varnames[1 : cls.__init__.__code__.co_argcount]
        try:
            return cls(**{name: content[name] for name in names if name in content})
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from None

    def __call__(
        self, raw_speech: np.ndarray | Sequence[np.ndarray], sampling_rate: int | None = None
    ) -> dict[str, np.ndarray]:
        """{"input_features": float32 (B, feature_size, frames)} of mono sound (n,), or of several, each (n,).

        An array (B, n) is B recordings, unless it has the shape of one with channels: fewer samples than rows, or 8 at
        most. sampling_rate: that of raw_speech, to be sure that it fits.

        Raises:
            ValueError, TypeError: a wrong sampling rate, not mono, not numbers.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"sampling_rate is {sampling_rate}; needed: {self.sampling_rate} (see audio.resample)")
        features = [self._features(self._segment(sound)) for sound in recordings("raw_speech", raw_speech)]
        return {"input_features": np.stack(features)}

    def _segment(self, sound: Any) -> np.ndarray:
        """Samples (n,) cut or padded to (n_samples,)."""
        sound = _samples("raw_speech", sound)[: self.n_samples]
        segment = np.full(self.n_samples, self.padding_value, np.float32)
        segment[: len(sound)] = sound
        return segment

    def _features(self, segment: np.ndarray) -> np.ndarray:
        """(n_samples,) -> (feature_size, n_samples // hop_length)."""
        half = self.n_fft // 2
        padded = np.pad(segment.astype(np.float64), half, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop_length]
        frames = frames[: self.n_samples // self.hop_length]  # without the last one
        power = np.abs(np.fft.rfft(frames * self._window, axis=1)) ** 2
        levels = np.log10(np.maximum(power @ self.mel_filters, _LEAST_POWER)).T
        levels = np.maximum(levels, levels.max() - _RANGE)
        return ((levels + 4) / 4).astype(np.float32)


def mel_filter_bank(bins: int, filters: int, sampling_rate: int, highest: float = 8000.0) -> np.ndarray:
    """Triangular filters (bins, filters) from 0 to `highest` Hz, evenly spaced on Slaney's mel scale, of equal area.

    bins: frequencies from 0 to half the sampling rate.

    Example:
        >>> mel_filter_bank(201, 80, 16000).shape
        (201, 80)
    """
    centres = _hertz(np.linspace(0.0, _mel(highest), filters + 2))
    distance = centres[None] - np.linspace(0, sampling_rate // 2, bins)[:, None]
    widths = np.diff(centres)
    rising, falling = -distance[:, :-2] / widths[:-1], distance[:, 2:] / widths[1:]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (centres[2:] - centres[:-2]))


def _mel(hertz: float) -> float:
    if hertz < _LINEAR_HZ:
        return hertz * _LINEAR_MEL / _LINEAR_HZ
    return _LINEAR_MEL + math.log(hertz / _LINEAR_HZ) / _LOG_STEP


def _hertz(mels: np.ndarray) -> np.ndarray:
    linear = mels * (_LINEAR_HZ / _LINEAR_MEL)
    return np.where(mels < _LINEAR_MEL, linear, _LINEAR_HZ * np.exp(_LOG_STEP * (mels - _LINEAR_MEL)))


def recordings(name: str, sounds: Any) -> Sequence[Any]:
    """The recordings in `sounds`, samples of one or of several; `name` is for errors.

    Raises:
        ValueError: an array (B, n), or its nested lists, that looks like one recording of several channels.
    """
    if isinstance(sounds, (list, tuple)) and len(sounds) and np.ndim(sounds[0]) > 0:
        if not all(isinstance(row, (list, tuple)) and len(row) == len(sounds[0]) for row in sounds):
            return sounds
        sounds = np.asarray(sounds)
    if np.ndim(sounds) != 2:
        return [sounds]
    B, n = np.shape(sounds)
    if n < B or n <= _MOST_CHANNELS:
        raise ValueError(
            f"{name} has shape {(B, n)}, as sound of {n} channels has; needed: mono (n,), such as "
            f"{name}.mean(axis=1), or a list of recordings"
        )
    return sounds


def _samples(name: str, samples: Any) -> np.ndarray:
    """One channel as float32 (n,)."""
    samples = np.asarray(samples)
    if samples.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {samples.dtype}; needed: numbers")
    if samples.ndim != 1:
        raise ValueError(f"{name} has shape {samples.shape}; needed: (n,), one channel")
    return samples.astype(np.float32, copy=False)
