"""`transformer-fast transcribe`: a WAV file in, the text that is spoken out, segment by segment."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from transformer_fast.commands import common


def add(commands: Any) -> None:
    command = commands.add_parser(
        "transcribe",
        help="a WAV file in, the text that is spoken out",
        description="Transcribes FILE with a Whisper model. A recording is cut into segments of 30 seconds, wherever"
        " that is, and each segment's text goes to stdout when it is known.",
    )
    command.add_argument("file", metavar="FILE", help="a WAV file (PCM, any rate; several channels are averaged)")
    command.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        required=True,
        help="a folder with a Whisper model, its preprocessor_config.json and tokenizer.json, or its name on the"
        " Hugging Face hub",
    )
    command.add_argument("--language", metavar="CODE", help="what is spoken, e.g. en (default: the model hears)")
    command.add_argument("--translate", action="store_true", help="to English, instead of a transcript")
    command.add_argument("--beams", type=common.positive, default=1, metavar="N", help="beam search with N beams")
    common.add_threads(command)
    common.add_json(command, help="print file, text, segments and seconds as JSON, at the end")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    common.set_threads(options)
    model, extractor, tokenizer = _load(options.model)
    samples = _read(options.file, extractor.sampling_rate)
    search: dict[str, Any] = {"num_beams": options.beams}
    if options.language is not None:
        search["language"] = options.language
    if options.translate:
        search["task"] = "translate"
    duration = len(samples) / extractor.sampling_rate
    segments = []
    started = time.perf_counter()
    for segment in _segments(model, extractor, tokenizer, samples, search):
        segments.append(segment)
        if not options.json:
            print(segment["text"].strip(), flush=True)
    seconds = time.perf_counter() - started
    if options.json:
        text = "".join(segment["text"] for segment in segments).strip()
        common.print_json({"file": options.file, "text": text, "segments": segments, "seconds": seconds})
    else:
        common.say(f"{duration:.1f} s of sound in {seconds:.2f} s")


def _load(path_or_hub_id: str) -> tuple[Any, Any, Any]:
    """The model, which must be Whisper's, its feature extractor and its tokenizer."""
    from transformer_fast.audio import WhisperFeatureExtractor
    from transformer_fast.generation import load_tokenizer
    from transformer_fast.models import find_folder, load_model
    from transformer_fast.models.whisper import WhisperForConditionalGeneration

    folder = find_folder(path_or_hub_id)
    model = load_model(folder)
    if not isinstance(model, WhisperForConditionalGeneration):
        raise ValueError(f"{path_or_hub_id}: {type(model).__name__} does not transcribe; needed: a Whisper model")
    return model, WhisperFeatureExtractor.from_pretrained(folder), load_tokenizer(folder)


def _read(file: str, rate: int) -> Any:
    from transformer_fast.audio import read_wav

    samples = read_wav(file, rate)
    if not len(samples):
        raise ValueError(f"{file}: holds no sound")
    return samples


def _segments(model: Any, extractor: Any, tokenizer: Any, samples: Any, search: dict[str, Any]) -> Iterator[dict]:
    """{"start", "end" (seconds), "text"} of each segment."""
    length, rate = extractor.n_samples, extractor.sampling_rate
    for first in range(0, len(samples), length):
        sound = samples[first : first + length]
        ids = model.generate(**extractor(sound), **search)[0]
        yield {"start": first / rate, "end": (first + len(sound)) / rate, "text": tokenizer.decode(ids.tolist())}
