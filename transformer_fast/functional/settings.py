"""Threads, instruction set, workspace, and what the machine can do. Called by users, the command, and benchmarks."""

from __future__ import annotations

import os
import re

import numpy as np

from transformer_fast import _core

_MOST_THREADS = 4095  # csrc/runtime/threads.c takes no more from the environment


def set_num_threads(n: int | None) -> None:
    """How many threads an op may use from now on, in the whole process. None: back to the environment's choice.

    That is TRANSFORMER_FAST_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that affinity and cgroup quota give.

    Example:
        >>> F.set_num_threads(1)
        >>> F.get_num_threads()
        1
        >>> F.set_num_threads(None)
    """
    if n is None:
        _core.set_num_threads(0)
        return
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= _MOST_THREADS:
        raise ValueError(f"n is {n!r}; needed: an integer from 1 to {_MOST_THREADS}, or None")
    _core.set_num_threads(int(n))


def get_num_threads() -> int:
    """How many threads an op of enough work uses now.

    Example:
        >>> F.get_num_threads() >= 1
        True
    """
    return _core.get_num_threads()


def available_isas() -> tuple[str, ...]:
    """The instruction set levels that this machine can run, slowest first.

    Example:
        >>> F.available_isas()[0]
        'portable'
    """
    return _core.available_isas()


def get_isa() -> str:
    """The level in force.

    Example:
        >>> F.get_isa() in F.available_isas()
        True
    """
    return _core.get_isa()


def set_isa(name: str | None) -> None:
    """Forces a level ("portable", "avx2", "amx", "neon", ...); None: the best of this machine, which is the default.

    Weights packed before belong to the level they were packed under. Raises ValueError for a name that is not known,
    RuntimeError where the machine lacks the level. TRANSFORMER_FAST_ISA does the same at import.

    Example:
        >>> before = F.get_isa()
        >>> F.set_isa("portable")
        >>> F.get_isa()
        'portable'
        >>> F.set_isa(before)
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name is {name!r}; needed: a string, or None")
    done = _core.set_isa(name)
    if done is None:
        raise RuntimeError(
            f"the instruction set {name!r} is not there on this machine; available: {', '.join(available_isas())}"
        )
    if not done:
        raise ValueError(f"name is {name!r}; needed: one of {', '.join(available_isas())}")


def release_workspace() -> int:
    """Frees the scratch memory that calls keep for the next one; returns how many bytes that were.

    Example:
        >>> released = F.release_workspace()
        >>> F.release_workspace()
        0
    """
    return _core.release_workspace()


def show_config() -> dict:
    """What this build is and what it found on this machine.

    Keys: version, isa, available_isas, emulated_isas (levels that run without their instructions: in test builds
    alone), tuning (the record of the microarchitecture that is in force), num_threads, threads (what keeps them:
    "openmp", "native" or "serial", as TRANSFORMER_FAST_THREADS says at import), openmp (whether this build has it),
    cpu, cache_bytes (L1d, L2, L3), compiler.

    Example:
        >>> F.show_config()["version"] == tf.__version__
        True
    """
    from transformer_fast import __version__

    return {
        "version": __version__,
        "isa": get_isa(),
        "available_isas": available_isas(),
        "emulated_isas": _core.emulated_isas(),
        "tuning": _core.get_tuning(),
        "num_threads": get_num_threads(),
        "threads": _core.get_thread_backend(),
        "openmp": _core.has_openmp(),
        "cpu": _core.cpu_brand(),
        "cache_bytes": _core.cache_bytes(),
        "compiler": _core.compiler(),
    }


def measure_fma_peak(num_threads: int = 1, seconds: float = 0.2) -> float:
    """GFLOP/s of independent fp32 multiply-adds of the level in force, best of `seconds`: every product's ceiling.

    Example:
        >>> F.measure_fma_peak(seconds=0.01) > 0
        True
    """
    return _core.measure_fma(seconds, num_threads)


def measure_streaming_read(nbytes: int = 256 << 20, num_threads: int = 1) -> float:
    """GB/s of reading `nbytes` in order (more than the caches hold: the memory's rate), best of five.

    Example:
        >>> F.measure_streaming_read(nbytes=1 << 20) > 0
        True
    """
    return _core.measure_read(np.ones(max(nbytes // 4, 1), np.float32), 5, num_threads)


def _apply_environment() -> None:
    """Refuses what the library's own variables cannot mean; empty is not set. The engine reads the number itself."""
    isa = os.environ.get("TRANSFORMER_FAST_ISA")
    if isa:
        try:
            set_isa(isa)
        except (ValueError, RuntimeError) as error:
            raise ImportError(f"TRANSFORMER_FAST_ISA={isa}: {error}") from None
    backend = os.environ.get("TRANSFORMER_FAST_THREADS")
    if backend and backend not in _core.thread_backends():
        built = "" if _core.has_openmp() else " (this build is without OpenMP)"
        raise ImportError(
            f"TRANSFORMER_FAST_THREADS is {backend!r}; needed: one of {', '.join(_core.thread_backends())}{built}"
        )
    if backend:
        _core.set_thread_backend(backend)
    threads = os.environ.get("TRANSFORMER_FAST_NUM_THREADS")
    if threads and not (re.fullmatch("[0-9]{1,4}", threads) and 1 <= int(threads) <= _MOST_THREADS):
        raise ImportError(f"TRANSFORMER_FAST_NUM_THREADS is {threads!r}; needed: an integer from 1 to {_MOST_THREADS}")


_apply_environment()
