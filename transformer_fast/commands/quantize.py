"""`transformer-fast quantize`: a folder whose weights are 8-bit integers, made of a folder of floats.

The new folder is written beside its place and moved there when it is complete.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from transformer_fast.commands import common

# Weights in any form, which the new folder has its own of; folders of other engines' exports.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".gguf", ".index.json")
_LEFT_OUT = {"onnx", "openvino", ".git", ".cache"}


def add(commands: Any) -> None:
    command = commands.add_parser(
        "quantize",
        help="write a model with weights in 8-bit integers",
        description="Reads the model SRC, a folder or a name on the Hugging Face hub, and writes the folder DST with"
        " its weights as integers (compressed-tensors' form) and all its other files. `compare` says what it changes.",
    )
    command.add_argument("source", metavar="SRC", help="a folder with a model, or its name on the Hugging Face hub")
    command.add_argument("target", metavar="DST", help="the folder to write: it must not be there, or be empty")
    command.add_argument(
        "--compute-type",
        choices=("int8", "int8_a16"),
        default="int8",
        help="activations in 8 bits or in 16, as the new config.json will say (default: int8)",
    )
    command.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PART",
        help="a part of the model that stays float32, as 'lm_head' or 'encoder.layer.0'; may be given several times",
    )
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from transformer_fast.files.folder import find_folder

    target = Path(options.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise common.UsageError(f"{target}: is there already; give a folder that is not, or an empty one")
    started, source = time.perf_counter(), find_folder(options.source)
    if source.resolve() in target.resolve().parents:
        raise common.UsageError(f"{target}: lies in {source}; give a folder outside of it")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        sizes = _quantize(source, unfinished, {"": options.compute_type, **dict.fromkeys(options.keep, "float32")})
        shutil.copymode(source, unfinished)
        os.replace(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    seconds = time.perf_counter() - started
    if options.json:
        told = {"target": str(target), "bytes_before": sizes[0], "bytes_after": sizes[1], "seconds": seconds}
        common.print_json(told)
    else:
        print(f"{target}: {sizes[1] / 1e6:.1f} MB of weights, {sizes[0] / 1e6:.1f} MB before ({seconds:.1f} s)")


def _quantize(source: Path, target: Path, compute_type: dict[str, str]) -> tuple[int, int]:
    """Writes the folder; the bytes of the model's weights before and after."""
    from transformer_fast.files.folder import Folder, open_source
    from transformer_fast.models import load_model
    from transformer_fast.pipelines.sentence_settings import transformer_source

    own = source  # a sentence encoder's model may stand in a folder of its own
    if (source / "modules.json").exists():
        model_source = transformer_source(open_source(source))
        own = model_source.path if isinstance(model_source, Folder) else source
    place = target / own.relative_to(source)
    _copy_others(source, target, own)
    load_model(own).save_pretrained(place, compute_type=compute_type)
    return _weight_bytes(own), _weight_bytes(place)


def _copy_others(source: Path, target: Path, own: Path) -> None:
    """Tokenizer, settings, modules behind the encoder: all but the weights and config.json of the model, in `own`."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        found = _LEFT_OUT.intersection(names) if Path(folder) == source else set()
        if Path(folder) == own:
            found |= {name for name in names if name.endswith(_WEIGHTS) or name == "config.json"}
        return found

    shutil.copytree(source, target, ignore=left_out, dirs_exist_ok=True)


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
