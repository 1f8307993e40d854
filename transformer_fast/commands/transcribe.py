"""`transformer-fast transcribe`: a sound file in, the text that is spoken out, segment by segment."""

from __future__ import annotations

import argparse
import time
from typing import Any

from transformer_fast.commands import common


def add(commands: Any) -> None:
    command = commands.add_parser(
        "transcribe",
        help="a sound file in, the text that is spoken out",
        description="Transcribes FILE with a Whisper model. A recording is cut into segments of at most 30 seconds,"
        " where it is quietest, and each segment's text goes to stdout when it is known.",
    )
    command.add_argument(
        "file", metavar="FILE", help="a WAV, FLAC, OGG or MP3 file (any rate; several channels are averaged)"
    )
    common.add_folder(command, "a Whisper model, its settings of preprocessing and tokenizer.json")
    command.add_argument(
        "--language", metavar="LANGUAGE", help="what is spoken, e.g. en or english (default: the model hears)"
    )
    command.add_argument("--translate", action="store_true", help="to English, instead of a transcript")
    command.add_argument("--beams", type=common.positive, default=1, metavar="N", help="beam search with N beams")
    common.add_threads(command)
    common.add_json(command, help="print file, text, segments and seconds as JSON, at the end")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from transformer_fast.files.sound import read_audio
    from transformer_fast.pipelines import Transcriber

    common.set_threads(options)
    transcribe = Transcriber.from_pretrained(options.model, compute_type=options.compute_type)
    rate = transcribe.extractor.sampling_rate
    samples = read_audio(options.file, rate)
    if not len(samples):
        raise ValueError(f"{options.file}: holds no sound")
    task = "translate" if options.translate else None
    segments = []
    started = time.perf_counter()
    for segment in transcribe.stream(samples, language=options.language, task=task, num_beams=options.beams):
        segments.append(segment._asdict())
        if not options.json:
            print(segment.text, flush=True)
    seconds = time.perf_counter() - started
    if options.json:
        text = " ".join(segment["text"] for segment in segments if segment["text"])
        common.print_json({"file": options.file, "text": text, "segments": segments, "seconds": seconds})
    else:
        common.say(f"{len(samples) / rate:.1f} s of sound in {seconds:.2f} s")
