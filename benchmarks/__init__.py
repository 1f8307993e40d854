"""How fast the library is next to its peers and to what the processor can do: `python -m benchmarks --help`.

    attention.py  linear.py  models.py  families.py  low_precision.py  decoders.py    a file a question: cases, claims
         \\            |          |         /             /
                   __main__.py             the command; report.py (tables) and plots.py read what it wrote
                       |
                   runner.py               turns, rounds, medians, the result file; claims.py judges it
                       |  JSON lines
                   worker.py               one process a peer; backends/<peer>.py calls the peer
                       |
                   wire.py masks.py texts.py artifacts.py modules.py      what both sides share

perplexity.py and greedy.py judge formats by the small language model that byte_model.py trains. compare.py puts two
builds of ours in the place of the peers, threads.py two backends of threads; bench_cases.py gives the same cases to
pytest-benchmark.
A new peer is a file in backends/ and a name in `backends.NAMES`; a new case is a line in its question's file.
README.md says how to run everything.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _order_path() -> None:
    """What is measured is the installed package; the checkout only where none is installed (built in place).

    `python -m benchmarks` puts the checkout first, whose package lacks its compiled module after an ordinary install.
    A checkout that PYTHONPATH names is what is to be measured, and stays first. The cases are those of the tests.
    """
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    wanted = any(place and Path(place).resolve() == ROOT for place in named)
    if not wanted and any(Path(place or ".").resolve() == ROOT for place in sys.path):
        sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
        sys.path.append(str(ROOT))
    helpers = str(ROOT / "tests" / "helpers")
    if helpers not in sys.path:
        sys.path.append(helpers)


_order_path()
