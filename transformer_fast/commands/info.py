"""`transformer-fast info`: what the library found on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from transformer_fast.commands import common


def add(commands: Any) -> None:
    command = commands.add_parser("info", help="what the library found on this machine")
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    import platform

    import numpy as np

    from transformer_fast import show_config

    facts = {**show_config(), "numpy": np.__version__, "python": platform.python_version()}
    if options.json:
        common.print_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        print(f"{name.ljust(width)}  {value}")
