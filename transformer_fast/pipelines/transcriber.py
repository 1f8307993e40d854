"""`Transcriber`: speech in, text out, by Whisper.

A recording that is longer than the model hears at once (30 s) is cut where it is quietest, and the texts of the parts
are joined; transformers steers its way through long recordings by timestamps instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.sound import WhisperFeatureExtractor, read_audio, recordings
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer
from transformer_fast.models import PretrainedModel, load_model
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.models.whisper import WhisperForConditionalGeneration

# Segments that run together: each has 1,500 places in the encoder.
_BATCH = 4
# A cut is looked for in the last part of a segment, and is the middle of the quietest stretch of this many seconds.
_SEARCHED, _STRETCH = 0.2, 0.2


class Segment(NamedTuple):
    """A part of a recording, from `start` to `end` in seconds, and what is said in it."""

    start: float
    end: float
    text: str


class Transcriber:
    """Sound files, or samples, in; what is said in them out.

    Attributes:
        model: the WhisperForConditionalGeneration.
        extractor: the `files.sound.WhisperFeatureExtractor`; extractor.sampling_rate is that of samples.

    Example:
        >>> from transformer_fast.pipelines import Transcriber
        >>> transcribe = Transcriber.from_pretrained("openai/whisper-tiny")                           # doctest: +SKIP
        >>> transcribe("speech.wav", language="en")                                                   # doctest: +SKIP
        'Mr. Quilter is the apostle of the middle classes.'
    """

    def __init__(self, model: PretrainedModel, extractor: WhisperFeatureExtractor, tokenizer: Tokenizer) -> None:
        self.model = model
        self.extractor = extractor
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        **hub: Any,
    ) -> Transcriber:
        """The transcriber of a model folder, or of a model on the Hugging Face hub.

        compute_type, ignore_fields, packed_cache and hub: as in `load_model`.

        Raises:
            CheckpointError: there is no such folder, a file is malformed, or the model is one of another kind.
        """
        source = open_source(path_or_hub_id, **hub)
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
        model = load_model(source, **options)
        if not isinstance(model, WhisperForConditionalGeneration):
            raise CheckpointError(f"{source}: holds a {type(model).__name__}; Transcriber needs a Whisper model")
        return cls(model, WhisperFeatureExtractor.from_pretrained(source), Tokenizer(source))

    def __call__(self, sounds: Any, *, language: str | None = None, task: str | None = None, **options: Any) -> Any:
        """The text of one recording, a string, or of each of several.

        Args:
            sounds: the path of a sound file, or samples (n,) at extractor.sampling_rate, mono; or a list of such.
            language: such as "en"; by default the model hears it, segment by segment.
            task: "transcribe" (default), or "translate" to English.
            options: of `model.generate` (num_beams, ...).

        Raises:
            TypeError, ValueError: an argument is of a wrong kind or out of range.
            OSError: a file cannot be read.
        """
        single = isinstance(sounds, (str, Path)) or (_is_array(sounds) and sounds.ndim == 1)
        if not single and (isinstance(sounds, (bytes, Mapping)) or not isinstance(sounds, Iterable)):
            raise TypeError(f"sounds is a {type(sounds).__name__}; needed: a path, samples (n,), or a list of them")
        several = [sounds] if single else list(recordings("sounds", sounds) if _is_array(sounds) else sounds)
        owners, segments = [], []
        for i, sound in enumerate(several):
            for segment in self._segments(self._samples(sound, i)):
                owners.append(i)
                segments.append(segment)
        options = {"language": language, "task": task, **options}
        texts: list[list[str]] = [[] for _ in several]
        for start in range(0, len(segments), _BATCH):
            found = self._texts(segments[start : start + _BATCH], options)
            for owner, text in zip(owners[start : start + _BATCH], found, strict=True):
                texts[owner].append(text)
        joined = [" ".join(part for part in parts if part) for parts in texts]
        return joined[0] if single else joined

    def stream(
        self, sound: Any, *, language: str | None = None, task: str | None = None, **options: Any
    ) -> Iterator[Segment]:
        """The parts of one recording, each as soon as its text is known; their texts joined are those of a call.

        Args and errors: as in a call, which takes several recordings.

        Example:
            >>> for part in transcribe.stream("speech.wav"):                                          # doctest: +SKIP
            ...     print(part.start, part.end, part.text)
            0.0 27.31 Mr. Quilter is the apostle of the middle classes, and ...
        """
        rate, first = self.extractor.sampling_rate, 0
        for segment in self._segments(self._samples(sound, 0)):
            (text,) = self._texts([segment], {"language": language, "task": task, **options})
            last = first + len(segment)
            yield Segment(first / rate, last / rate, text)
            first = last

    def _texts(self, segments: list[np.ndarray], options: dict[str, Any]) -> list[str]:
        ids = self.model.generate(**self.extractor(segments), **options)
        return [self._tokenizer.decode(row.tolist(), skip_special_tokens=True).strip() for row in ids]

    def _samples(self, sound: Any, index: int) -> np.ndarray:
        if isinstance(sound, (str, Path)):
            return read_audio(sound, self.extractor.sampling_rate)
        if not isinstance(sound, np.ndarray) or sound.ndim != 1 or sound.dtype.kind != "f":
            what = f"shape {sound.shape} and dtype {sound.dtype}" if isinstance(sound, np.ndarray) else type(sound)
            raise TypeError(f"sounds[{index}] has {what}; needed: a path, or samples (n,) from -1 to 1")
        return sound.astype(np.float32, copy=False)

    def _segments(self, samples: np.ndarray) -> list[np.ndarray]:
        """Parts that the model hears at once; an empty recording is one of them."""
        segments, most = [], self.extractor.n_samples
        while len(samples) > most:
            cut = _quietest(samples[:most], int(self.extractor.sampling_rate * _STRETCH))
            segments.append(samples[:cut])
            samples = samples[cut:]
        return [*segments, samples]


def _is_array(sounds: Any) -> bool:
    return isinstance(sounds, np.ndarray)


def _quietest(samples: np.ndarray, stretch: int) -> int:
    """The middle of the quietest stretch in the last part of the samples."""
    start = int(len(samples) * (1 - _SEARCHED))
    power = np.cumsum(np.concatenate([[0.0], np.square(samples[start:], dtype=np.float64)]))
    stretch = min(stretch, len(power) - 1)
    return start + int(np.argmin(power[stretch:] - power[:-stretch])) + stretch // 2
