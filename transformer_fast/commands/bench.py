"""`transformer-fast bench`: attention and linear layers against NumPy."""

from __future__ import annotations

import argparse
from typing import Any

from transformer_fast.commands import common


def add(commands: Any) -> None:
    command = commands.add_parser(
        "bench",
        help="attention and linear layers against NumPy",
        description="Measures attention and linear layers, NumPy on the same number of threads, and the processor's"
        " peak of fused multiply-adds, in turns.",
    )
    command.add_argument("--quick", action="store_true", help="a few sizes only, in some seconds")
    common.add_threads(command, help="threads of both (default 1)")
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from transformer_fast import bench

    cases = bench.QUICK if options.quick else bench.FULL
    result = bench.run(cases, num_threads=options.threads or 1, report=common.say)
    if options.json:
        common.print_json(result)
    else:
        print(bench.table(result))
