"""`transformer-fast quantize`: a folder whose weights are 8-bit integers, made of a folder of floats."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from transformer_fast.commands import common

# Weights in any form, which the new folder has its own of; folders of other engines' exports.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".gguf", ".index.json")
_LEFT_OUT = {"config.json", "onnx", "openvino", ".git", ".cache"}


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
    from transformer_fast.models import load_model

    target = Path(options.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise common.UsageError(f"{target}: is there already; give a folder that is not, or an empty one")
    started, source = time.perf_counter(), find_folder(options.source)
    model = load_model(source)
    model.save_pretrained(target, compute_type={"": options.compute_type, **dict.fromkeys(options.keep, "float32")})
    _copy_others(source, target)
    told = {
        "target": str(target),
        "bytes_before": _weight_bytes(source),
        "bytes_after": _weight_bytes(target),
        "seconds": time.perf_counter() - started,
    }
    if options.json:
        common.print_json(told)
    else:
        before, after = told["bytes_before"] / 1e6, told["bytes_after"] / 1e6
        print(f"{target}: {after:.1f} MB of weights, {before:.1f} MB before ({told['seconds']:.1f} s)")


def _copy_others(source: Path, target: Path) -> None:
    """Tokenizer, settings, modules behind the encoder: all but the model's own weights and config.json."""
    for path in sorted(source.iterdir()):
        if path.name in _LEFT_OUT or path.name.endswith(_WEIGHTS):
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, target / path.name)


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
