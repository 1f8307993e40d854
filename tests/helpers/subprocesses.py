"""Running Python in a process of its own, with the very package that this process tests.

Used by the tests of what a process goes through: import time, environment variables, fork, leaks, the command line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import transformer_fast

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parents[1]
PACKAGE_PARENT = Path(transformer_fast.__file__).resolve().parent.parent
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")

# Settings of whoever runs the suite that would decide what a test means to find out.
_UNSET = (
    "TRANSFORMER_FAST_ISA",
    "TRANSFORMER_FAST_THREADS",
    "TRANSFORMER_FAST_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "PYTHONPATH",
)


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what steers the library, the package under test first, and `variables`."""
    kept = {name: value for name, value in os.environ.items() if name not in _UNSET}
    return {**kept, "PYTHONPATH": str(PACKAGE_PARENT), **variables}


def run_python(
    *arguments: str,
    code: str | None = None,
    timeout: float = 120,
    check: bool = True,
    cwd: Path | None = None,
    **variables,
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS`, or `python -c CODE ARGUMENTS`, without stdin; `check` fails with what the child printed."""
    script = ["-c", textwrap.dedent(code)] if code is not None else []
    done = subprocess.run(
        [sys.executable, *script, *arguments],
        env=environment(**variables),
        cwd=cwd or PACKAGE_PARENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def printed(code: str, **options) -> str:
    """What the code prints, stripped."""
    return run_python(code=code, **options).stdout.strip()
