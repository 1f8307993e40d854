"""Threads: the same bits at any number of them and of every backend, settings and their order, several Python threads
at once, the GIL."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from subprocesses import printed, run_python
from support import assert_same_bits, normal

from transformer_fast import _core, functional

BACKENDS = [name for name in _core.thread_backends() if name != "serial"]


def attention(B, H, Lq, Lk, D, Hkv=None, **options):
    q, k, v = normal(B, H, Lq, D, seed=1), normal(B, Hkv or H, Lk, D, seed=2), normal(B, Hkv or H, Lk, D, seed=3)
    return lambda: functional.scaled_dot_product_attention(q, k, v, enable_gqa=Hkv is not None, **options)


def varlen(*lengths):
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    q, k, v = (normal(int(starts[-1]), 3, 32, seed=s) for s in range(3))
    return lambda: functional.varlen_attention(q, k, v, starts, starts)


def paged(*counts, shared=64):
    """Four sequences, of which three share their first keys, with counts[b] queries each."""
    starts, lengths = np.cumsum([0, *counts]), np.array([600, 128, 333, 70])
    table = np.arange(40).reshape(4, 10)
    table[1:3, 0] = 0
    query, key, value = normal(int(starts[-1]), 8, 32), normal(40, 2, 64, 32, seed=1), normal(40, 2, 64, 40, seed=2)
    options = {"shared_keys": np.array([shared] * 3 + [0]), "cu_seqlens_q": starts, "is_causal": True}
    return lambda: functional.paged_attention(query, key, value, table, lengths, enable_gqa=True, **options)


def linear_max(M, N, K):
    x, weight, cu_seqlens = normal(M, K), normal(N, K), np.arange(M + 1)[:: max(1, M // 3)]
    return lambda: functional.linear_max(x, weight, cu_seqlens=cu_seqlens)


def linear(M, N, K, **options):
    x, weight, bias = normal(M, K), functional.pack_weight(normal(N, K)), normal(N)
    return lambda: functional.linear(x, weight, bias, **options)


def packing(N, K):
    weight = normal(N, K)
    return lambda: functional.pack_weight(weight)


def late_interaction(queries, documents, D, **options):
    cu_queries, cu_documents = (np.cumsum([0, *lengths]) for lengths in (queries, documents))
    q, d = normal(int(cu_queries[-1]), D), normal(int(cu_documents[-1]), D, seed=1)
    return lambda: functional.max_sim(q, d, cu_documents, cu_queries=cu_queries, **options)


def rows(op, M, N, **options):
    x = normal(M, N)
    return lambda: getattr(functional, op)(x, **options)


def bits(rows):
    return np.random.default_rng(rows).integers(0, 256, (rows, 5)).astype(np.uint8)


def search(op, query, corpus):
    """Scores and indices in one array."""
    return lambda: np.concatenate([x.astype(np.float64) for x in getattr(functional, op)(query, corpus, 9)])


def gather():
    ids, weight = np.random.default_rng(0).integers(0, 5000, (40, 128)), normal(5000, 96)
    return lambda: functional.embedding(ids, weight)


def heads(op, *shape, **options):
    x = normal(*shape)
    return lambda: getattr(functional, op)(x, **options)


def recurrent(op, L, B, width, units, direction="forward", lengths=None):
    gates, both = {"lstm": 4, "gru": 3}[op], 2 if direction == "both" else 1
    x, rows = normal(L, B, width), both * gates * units
    weights = normal(rows, width, seed=1) / np.float32(width), normal(rows, units, seed=2) / np.float32(units)
    return lambda: getattr(functional, op)(x, *weights, normal(rows), direction=direction, lengths=lengths)


# Each large enough to be cut into tasks, and odd enough that the tasks are of different sizes.
WORK = {
    "attention-many-heads": lambda: attention(3, 5, 130, 130, 40),
    "attention-one-head": lambda: attention(1, 1, 700, 700, 32),
    "attention-causal": lambda: attention(1, 3, 515, 515, 32, is_causal=True),
    # Rests of 8 and 4 rows, for which the last two panels share (panel_begin and block_begin in csrc).
    "attention-causal-536": lambda: attention(1, 3, 536, 536, 32, is_causal=True),
    "attention-window-groups": lambda: attention(
        1, 8, 25, 300, 32, Hkv=2, causal_offset="bottom_right", window=(90, 0)
    ),
    "attention-mask": lambda: attention(1, 2, 300, 300, 32, attn_mask=normal(300, 300) > 0),
    "attention-long-rows": lambda: attention(1, 1, 100, 5000, 32),
    "attention-lengths": lambda: attention(4, 2, 100, 300, 32, kv_lengths=np.array([300, 0, 1, 77])),
    "decode": lambda: attention(1, 4, 1, 5000, 64),
    "decode-gqa": lambda: attention(2, 8, 3, 3000, 64, Hkv=2),
    "decode-one-head": lambda: attention(1, 1, 1, 20_001, 64),
    "varlen": lambda: varlen(300, 5, 0, 77, 1, 130),
    "varlen-many": lambda: varlen(*([17, 3, 40] * 20)),
    "paged-decode": lambda: paged(1, 1, 1, 1),
    "paged-rows": lambda: paged(40, 0, 61, 3),
    "linear": lambda: linear(300, 257, 129, activation="gelu"),
    "linear_max": lambda: linear_max(300, 257, 129),
    "linear_max-row": lambda: linear_max(3, 3001, 500),
    "linear-wide": lambda: linear(13, 2000, 300),
    "linear-row": lambda: linear(1, 3001, 500),
    "linear-deep": lambda: linear(65, 70, 3000),
    "lstm-rows": lambda: recurrent("lstm", 7, 37, 65, 70, "both", np.arange(37) % 8),
    "lstm-one-row": lambda: recurrent("lstm", 5, 1, 40, 400),
    "gru-few-rows": lambda: recurrent("gru", 9, 3, 40, 300, "backward", np.array([2, 9, 0])),
    "gru-both": lambda: recurrent("gru", 9, 1, 40, 130, "both"),
    "max_sim": lambda: late_interaction([3, 33, 0, 40], [300, 1, 0, 700] * 30, 130),
    "max_sim-pairs": lambda: late_interaction([3, 33, 0, 40] * 10, [300, 1, 20, 700] * 10, 130, pairwise=True),
    "layer_norm": lambda: rows("layer_norm", 1003, 384),
    "softmax": lambda: rows("softmax", 1003, 384),
    "softmax-axis": lambda: rows("softmax", 500, 700, axis=0),
    "gelu": lambda: rows("gelu", 1003, 384),
    "tanh": lambda: rows("tanh", 1, 400_001),
    "embedding": gather,
    "search": lambda: search("top_k_products", normal(70, 48), normal(3001, 48, seed=1)),
    "search-bits": lambda: search("top_k_hamming", bits(300), bits(2001)),
    "split_heads": lambda: heads("split_heads", 4, 257, 12 * 33, num_heads=12),
    "concat_heads": lambda: heads("concat_heads", 4, 12, 257, 33),
}


@pytest.mark.parametrize("name", WORK)
def test_the_same_bits_at_any_number_of_threads(name, isa, backend, restored_threads):
    run = WORK[name]()
    functional.set_num_threads(1)
    expected = run()
    for count in (2, 3, 4, 7):
        functional.set_num_threads(count)
        assert_same_bits(run(), expected)


def test_packing_gives_the_same_weight_at_any_number_of_threads(isa, backend, restored_threads):
    x, weight = normal(3, 515), normal(3001, 515)
    results = []
    for count in (1, 2, 4):
        functional.set_num_threads(count)
        results.append(functional.linear(x, functional.pack_weight(weight)))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_setting_the_number(backend, restored_threads):
    for count in (1, 2, 5):
        functional.set_num_threads(count)
        assert functional.get_num_threads() == count
        assert functional.show_config()["num_threads"] == count


def threads_in_a_fresh_process(code="", **variables):
    """What get_num_threads() says in a new process with these variables."""
    code = f"from transformer_fast import functional as f\n{code}\nprint(f.get_num_threads())"
    return int(printed(code, **variables))


def together(caller):
    """caller(i) in four Python threads at once, to the end."""
    callers = [threading.Thread(target=caller, args=(i,)) for i in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not any(thread.is_alive() for thread in callers)


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_the_settings(backend):
    """The call, else TRANSFORMER_FAST_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that affinity gives."""
    own, omp = dict(TRANSFORMER_FAST_NUM_THREADS="3"), dict(OMP_NUM_THREADS="5")
    chosen = dict(TRANSFORMER_FAST_THREADS=backend)
    assert threads_in_a_fresh_process("f.set_num_threads(2)", **own, **omp, **chosen) == 2
    assert threads_in_a_fresh_process(**own, **omp, **chosen) == 3
    assert threads_in_a_fresh_process(**omp, **chosen) == 5
    assert 1 <= threads_in_a_fresh_process(**chosen) <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("name", _core.thread_backends())
def test_the_environment_chooses_the_backend(name):
    code = "from transformer_fast import functional as f; print(f.show_config()['threads'], f.get_num_threads())"
    found = printed(code, TRANSFORMER_FAST_THREADS=name, TRANSFORMER_FAST_NUM_THREADS="3")
    assert found == f"{name} {1 if name == 'serial' else 3}"


def test_no_name_is_the_default_backend():
    code = "from transformer_fast import functional as f; print(f.show_config()['threads'])"
    assert printed(code) == printed(code, TRANSFORMER_FAST_THREADS="")


@pytest.mark.parametrize("value", ["Native", "openmp ", "tbb", "native,openmp", "1", "\udcff"])
def test_another_backend_in_the_environment_fails_loudly(value):
    done = run_python(code="import transformer_fast; print('imported')", check=False, TRANSFORMER_FAST_THREADS=value)
    assert done.returncode == 1 and "imported" not in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: TRANSFORMER_FAST_THREADS is {value!r}; needed: one of ")
    assert ", ".join(_core.thread_backends()) in last


@pytest.mark.parametrize(
    "name",
    ["attention-many-heads", "attention-long-rows", "decode", "varlen", "paged-rows", "linear", "layer_norm", "tanh"],
)
def test_four_python_threads_at_once(name, isa, backend, restored_threads):
    """Each gets the bits that it gets alone; scratch memory is not shared between callers."""
    functional.set_num_threads(2)
    run = WORK[name]()
    expected, wrong = run(), []
    start = threading.Barrier(4)

    def caller(_):
        start.wait()
        for _ in range(4):
            if not np.array_equal(run(), expected):
                wrong.append(threading.get_ident())

    together(caller)
    assert not wrong


def test_different_ops_at_once(isa, backend, restored_threads):
    """Shapes of all sizes from several Python threads: each caller's scratch grows on its own."""
    functional.set_num_threads(2)
    runs = [WORK[name]() for name in ("attention-one-head", "decode-one-head", "linear-deep", "softmax-axis")]
    expected, wrong = [run() for run in runs], []

    def caller(first):
        for i in range(8):
            at = (first + i) % len(runs)
            if not np.array_equal(runs[at](), expected[at]):
                wrong.append(at)

    together(caller)
    assert not wrong


LONG_CALLS = {
    "attention": lambda: attention(1, 4, 2048, 2048, 64),
    "varlen": lambda: varlen(3000),
    "linear": lambda: linear(2000, 2048, 1024),
    "pack_weight": lambda: packing(3000, 4000),
    "gru": lambda: recurrent("gru", 500, 16, 64, 256),
    "layer_norm": lambda: rows("layer_norm", 30_000, 512),
    "softmax": lambda: rows("softmax", 30_000, 512),
    "gelu": lambda: rows("gelu", 30_000, 512),
    "split_heads": lambda: heads("split_heads", 8, 2000, 1024, num_heads=16),
}


@pytest.mark.parametrize("name", LONG_CALLS)
def test_another_python_thread_runs_during_a_long_call(name, restored_threads):
    """A thread that notes the time as often as it can does so in the middle of the call, not only before and after."""
    functional.set_num_threads(1)
    run, times, stop = LONG_CALLS[name](), [], threading.Event()
    run()

    def ticker():
        while not stop.is_set():
            times.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=ticker)
    thread.start()
    try:
        during = []
        for _ in range(5):
            begin = time.perf_counter()
            run()
            end = time.perf_counter()
            quarter = (end - begin) / 4
            during.append(any(begin + quarter < t < end - quarter for t in list(times)))
    finally:
        stop.set()
        thread.join()
    assert sum(during) >= 3, f"of 5 calls of {end - begin:.4f} s, {sum(during)} let another thread run in their middle"
