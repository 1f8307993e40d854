"""What happens to the process around the library: fork, flush-to-zero, leaks, OpenMP runtimes, processors, settings.

Each test runs a process of its own: what is looked for would otherwise stay behind in the suite's. To add one, print
what the child found and compare it here; `PREAMBLE` gives the child work that is large enough for several threads.
"""

from __future__ import annotations

import json
import os
import textwrap

import pytest
from subprocesses import SANITIZED, printed, run_python

from transformer_fast import _core, functional

pytestmark = pytest.mark.alone

PREAMBLE = """
import hashlib, json, os, sys
import numpy as np
import transformer_fast as tf

def normal(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)

x, weight, qkv = normal(256, 384), normal(512, 384), normal(4, 8, 200, 64)

def work():
    # Both calls are far above the size from which loops run on several threads.
    y = tf.linear(x, weight)
    o = tf.scaled_dot_product_attention(qkv, qkv[..., ::-1], qkv, is_causal=True)
    return hashlib.sha256(y.tobytes() + o.tobytes()).hexdigest()

def tasks():
    return len(os.listdir("/proc/self/task"))
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads /proc, which this system lacks")


on_each_backend = pytest.mark.parametrize("backend", [name for name in _core.thread_backends() if name != "serial"])


def child(code: str, backend: str | None = None, **options) -> str:
    if backend:
        options["TRANSFORMER_FAST_THREADS"] = backend
    return printed(PREAMBLE + textwrap.dedent(code), **{"timeout": 60, "TRANSFORMER_FAST_NUM_THREADS": "2", **options})


# fork ----------------------------------------------------------------------------------------------------------------


@needs_fork
@on_each_backend
def test_fork_after_the_pool_was_used(backend):
    code = """
        expected = work()
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, work().encode())
            os._exit(0)
        os.close(write)
        got = os.read(read, 100).decode()
        os.wait()
        print(got == expected and work() == expected)
    """
    assert child(code, backend) == "True"


@needs_fork
@on_each_backend
def test_fork_before_the_pool_is_used(backend):
    code = """
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, work().encode())
            os._exit(0)
        os.close(write)
        got = os.read(read, 100).decode()
        os.wait()
        print(got == work())
    """
    assert child(code, backend) == "True"


@needs_fork
@on_each_backend
def test_multiprocessing_fork(backend):
    code = """
        import multiprocessing
        expected = work()
        with multiprocessing.get_context("fork").Pool(3) as pool:
            print(set(pool.starmap(work, [()] * 9)) == {expected})
    """
    assert child(code, backend) == "True"


@needs_fork
@on_each_backend
def test_preforking_server(backend):
    """Workers that a warm parent forked answer requests while the parent goes on working."""
    code = """
        import socket
        expected = work()
        workers = []
        for _ in range(3):
            ours, theirs = socket.socketpair()
            workers.append(ours)
            if os.fork() == 0:
                for worker in workers:
                    worker.close()  # or nobody would ever see the end of the requests
                while theirs.recv(1):
                    theirs.send(work().encode())
                os._exit(0)
            theirs.close()
        answers = set()
        for _ in range(4):
            for worker in workers:
                worker.send(b"?")
            answers.add(work())
            answers |= {worker.recv(100).decode() for worker in workers}
        print(answers == {expected})
        for worker in workers:
            worker.close()
    """
    assert child(code, backend) == "True"


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@on_each_backend
def test_fork_while_other_threads_compute(backend):
    """A child must not inherit a lock, or the mark of a running loop, that nobody in it will ever clear."""
    code = """
        import threading, warnings
        warnings.simplefilter("ignore")
        expected = work()
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                work()

        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        good = 0
        for _ in range(20):
            read, write = os.pipe()
            if os.fork() == 0:
                os.write(write, work().encode())
                os._exit(0)
            os.close(write)
            good += os.read(read, 100).decode() == expected
            os.close(read)
            os.wait()
        stop.set()
        for thread in threads:
            thread.join()
        print(good)
    """
    assert child(code, backend) == "20"


@needs_fork
@needs_proc
def test_a_forked_child_of_native_has_threads_of_its_own():
    code = """
        expected, inherited = work(), tasks()
        read, write = os.pipe()
        if os.fork() == 0:
            before = tasks()
            same = work() == expected
            os.write(write, json.dumps([before, same, tasks()]).encode())
            os._exit(0)
        os.close(write)
        print(json.dumps([inherited, *json.loads(os.read(read, 100)), work() == expected]))
        os.wait()
    """
    inherited, before, same, after, same_here = json.loads(child(code, "native"))
    assert before == 1 and after == 2 <= inherited
    assert same and same_here


@needs_fork
def test_settings_are_inherited_and_can_be_changed_in_the_child():
    code = """
        work()
        tf.set_isa("portable")
        tf.set_num_threads(2)
        read, write = os.pipe()
        if os.fork() == 0:
            before = tf.get_isa()
            tf.set_isa(tf.available_isas()[-1])
            tf.set_num_threads(1)
            os.write(write, json.dumps([before, tf.get_isa(), tf.get_num_threads(), len(work())]).encode())
            os._exit(0)
        os.close(write)
        print(os.read(read, 1000).decode())
        os.wait()
    """
    assert json.loads(child(code)) == ["portable", functional.available_isas()[-1], 1, 64]


# the floating-point environment --------------------------------------------------------------------------------------


def test_denormals_survive_the_import_and_the_calls():
    code = """
        def denormals():
            small = np.full(64, 1e-38, np.float32)
            scalar = np.float32(1e-38) * np.float32(0.1)
            return bool(scalar != 0) and bool(np.all(small * np.float32(0.1) != 0)) and 5e-324 / 1 != 0

        found = [denormals()]
        for isa in tf.available_isas():
            tf.set_isa(isa)
            work()
            found.append(denormals())
        print(all(found))
    """
    assert child(code) == "True"


# leaks ---------------------------------------------------------------------------------------------------------------


@needs_proc
@pytest.mark.skipif(SANITIZED, reason="the sanitizer keeps freed memory on purpose")
def test_memory_is_flat_over_many_calls():
    """10,000 rounds of good and of refused calls: neither resident memory nor the number of Python's blocks grows."""
    code = """
        import gc
        small, w, b, mask = normal(3, 5), normal(7, 5), normal(7), np.ones((3, 3), bool)
        q = normal(1, 2, 3, 4)
        packed = tf.pack_weight(w)
        table = normal(9, 4)
        F = tf.functional

        def refused(call, *arguments, **options):
            try:
                call(*arguments, **options)
            except (TypeError, ValueError, IndexError):
                return
            raise AssertionError(call)

        def one_round():
            F.linear(small, packed, b, activation="gelu")
            F.linear(small, w)
            F.pack_weight(w)
            F.scaled_dot_product_attention(q, q, q, mask)
            F.varlen_attention(q[0], q[0], q[0], [0, 1, 2], [0, 1, 2])
            F.layer_norm(small, small[0], small[1])
            F.softmax(small[:, ::-1])
            F.gelu(small.T)
            F.embedding([1, 2], table)
            F.concat_heads(F.split_heads(normal_3d, 2))
            refused(F.linear, small, w[:, :-1])
            refused(F.linear, small, packed, b[:-1])
            refused(F.scaled_dot_product_attention, q, q[..., :-1], q)
            refused(F.scaled_dot_product_attention, q, q, q, small)
            refused(F.layer_norm, small.astype(np.int64))
            refused(F.embedding, [99], table)
            refused(F.linear, small, w, out=np.empty((3, 6), np.float32))

        normal_3d = normal(2, 3, 4)

        def resident():
            gc.collect()
            with open("/proc/self/statm") as file:
                pages = int(file.read().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE"), sys.getallocatedblocks()

        for _ in range(1000):
            one_round()
        values = (small, w, b, q, packed, table)
        references = [sys.getrefcount(value) for value in values]
        grown = []
        for _ in range(3):
            memory, blocks = resident()
            for _ in range(10_000):
                one_round()
            memory_after, blocks_after = resident()
            grown.append((memory_after - memory, blocks_after - blocks))
        print(json.dumps([grown, references == [sys.getrefcount(value) for value in values]]))
    """
    grown, same_references = json.loads(child(code, timeout=300))
    # The interpreter's allocator takes half a megabyte once, somewhere on the way; a leak grows every time.
    assert min(memory for memory, _ in grown) < 64 * 1024  # 7 bytes a round
    assert min(blocks for _, blocks in grown) < 100
    assert same_references


@needs_proc
@pytest.mark.skipif(SANITIZED, reason="the sanitizer keeps freed memory on purpose")
def test_changing_shapes_do_not_pile_up():
    """The workspace grows to the largest shape and stays there."""
    code = """
        lengths = [int(n) for n in np.random.default_rng(0).integers(1, 600, 150)] + [600]

        def sweep():
            for length in lengths:
                q = np.ones((1, 4, length, 32), np.float32)
                tf.scaled_dot_product_attention(q, q, q)
                tf.linear(q.reshape(-1, 128), weight[:64, :128])

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        sweep()
        before = resident()
        for _ in range(3):
            sweep()
        print(resident() - before)
    """
    assert int(child(code)) < 4 << 20


# threads -------------------------------------------------------------------------------------------------------------

needs_openmp = pytest.mark.skipif(not functional.show_config()["openmp"], reason="built without OpenMP")


@pytest.mark.oracle
@needs_openmp
@pytest.mark.parametrize("other", ["torch", "sklearn"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_second_openmp_runtime(other, order):
    """Packages that bring an OpenMP runtime of their own change neither the results nor whether there are any."""
    pytest.importorskip(other)
    use = {
        "torch": "import torch; assert float((torch.ones(600, 600) @ torch.ones(600, 600))[0, 0]) == 600",
        "sklearn": "from sklearn.cluster import KMeans; KMeans(2, n_init=1).fit(np.random.rand(5000, 8))",
    }[other]
    alone = child("print(work())")
    if order == "before":
        together = printed(
            "import numpy as np\n" + use + PREAMBLE + "print(work())", timeout=120, TRANSFORMER_FAST_NUM_THREADS="2"
        )
    else:
        together = child(f"first = work()\n{use}\nassert work() == first\n{use}\nprint(work())", timeout=120)
    assert together == alone


@needs_openmp
@needs_proc
@on_each_backend
def test_threadpoolctl_reaches_the_library(backend):
    pytest.importorskip("threadpoolctl")
    code = """
        import threadpoolctl
        openmp = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"]
        before, started = tf.get_num_threads(), tasks()
        with threadpoolctl.threadpool_limits(1):
            inside = tf.get_num_threads()
            work()
            started_inside = tasks() - started
        after = tf.get_num_threads()
        work()
        print(json.dumps([len(openmp) >= 1, before, inside, started_inside, after, tasks() - started]))
    """
    assert json.loads(child(code, backend)) == [True, 2, 1, 0, 2, 1]


@needs_proc
@on_each_backend
@pytest.mark.parametrize("callers", [1, 4])
def test_callers_at_once_share_one_team(callers, backend):
    """Python threads that call at the same time do not each start a team of their own."""
    code = f"""
        import threading
        started = tasks()
        gate = threading.Barrier({callers})
        most = []

        def call():
            gate.wait()
            for _ in range(20):
                work()
                most.append(tasks())

        threads = [threading.Thread(target=call) for _ in range({callers})]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(max(most) - started - {callers})
    """
    # libgomp keeps a pool for each thread that ever led a team; with two threads that is one helper a caller.
    assert int(child(code, backend)) <= (callers if backend == "openmp" else 1)


def threads_seen(code: str = "print(tf.get_num_threads())", **variables: str) -> int:
    return int(printed(f"import os, transformer_fast as tf\n{code}", **variables))


def test_number_of_threads_from_the_environment():
    assert threads_seen(TRANSFORMER_FAST_NUM_THREADS="3") == 3
    assert threads_seen(OMP_NUM_THREADS="3") == 3
    assert threads_seen(TRANSFORMER_FAST_NUM_THREADS="2", OMP_NUM_THREADS="5") == 2
    assert threads_seen("tf.set_num_threads(4); print(tf.get_num_threads())", TRANSFORMER_FAST_NUM_THREADS="2") == 4


def test_number_of_threads_from_affinity():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    allowed = sorted(os.sched_getaffinity(0))
    code = "import os\nos.sched_setaffinity(0, {%s})\nimport transformer_fast as tf\nprint(tf.get_num_threads())"
    assert int(printed(code % allowed[0])) == 1
    assert threads_seen() <= len(allowed)


needs_processors = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)


@needs_proc
@needs_processors
@on_each_backend
def test_a_helper_leaves_the_processor_of_its_caller(backend):
    """Both on one processor, free to go: one of them goes, and may run where it might before."""
    code = """
        before = set(os.listdir("/proc/self/task"))
        expected = work()
        (helper,) = (int(name) for name in set(os.listdir("/proc/self/task")) - before)
        allowed = os.sched_getaffinity(0)
        here = min(allowed)

        def processor(thread):
            with open(f"/proc/self/task/{thread}/stat") as file:
                return int(file.read().rsplit(")", 1)[1].split()[36])

        os.sched_setaffinity(0, {here})
        left = 0
        for _ in range(10):
            os.sched_setaffinity(helper, {here})
            os.sched_setaffinity(helper, allowed)
            assert work() == expected
            assert os.sched_getaffinity(helper) == allowed
            left += processor(helper) != here
        print(left)
    """
    assert int(child(code, backend)) >= 8, "it stays every time where it is not made to leave"


@needs_proc
@on_each_backend
def test_helpers_sleep_when_there_is_no_work(backend):
    """After a while they are not run at all: the third number of schedstat counts how often they were."""
    code = """
        import time
        before = set(os.listdir("/proc/self/task"))
        work()
        (helper,) = set(os.listdir("/proc/self/task")) - before

        def runs():
            with open(f"/proc/self/task/{helper}/schedstat") as file:
                return int(file.read().split()[2])

        for _ in range(100):
            seen = runs()
            time.sleep(0.1)
            if runs() == seen:
                break
        print(runs() == seen)
    """
    assert child(code, backend) == "True"


@needs_proc
@needs_processors
def test_native_does_not_wait_for_a_helper_that_has_not_begun():
    """The helper gets no processor, being of the idle class beside a busy program: calls end without it."""
    if not hasattr(os, "SCHED_IDLE"):
        pytest.skip("this system has no idle class")
    code = """
        import subprocess, time
        before = set(os.listdir("/proc/self/task"))
        expected = work()
        (helper,) = (int(name) for name in set(os.listdir("/proc/self/task")) - before)
        ours, other, *_ = sorted(os.sched_getaffinity(0))
        loop = "print(flush=True)\\nwhile os.getppid() == parent: pass"
        loop = f"import os; os.sched_setaffinity(0, [{other}]); parent = {os.getpid()}; {loop}"
        busy = subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE)
        busy.stdout.readline()
        os.sched_setaffinity(0, {ours})
        os.sched_setaffinity(helper, {other})
        os.sched_setscheduler(helper, os.SCHED_IDLE, os.sched_param(0))

        def runs():
            with open(f"/proc/self/task/{helper}/schedstat") as file:
                return int(file.read().split()[2])

        without = 0
        for _ in range(30):
            time.sleep(0.01)  # and it sleeps
            seen = runs()
            tf.linear(x, weight)
            without += runs() == seen
        busy.kill()
        print(without, work() == expected)
    """
    without, same = child(code, "native").split()
    assert int(without) > 0 and same == "True"


@on_each_backend
@pytest.mark.parametrize("asked, variables", [(2, {"OMP_THREAD_LIMIT": "1"}), (3, {"OMP_THREAD_LIMIT": "2"}), (9, {})])
def test_fewer_threads_or_processors_than_asked_for(asked, variables, backend):
    """OpenMP may give fewer than asked for; threads that find no processor of their own stay where they are."""
    code = """
        expected = work()
        if hasattr(os, "sched_setaffinity"):
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
        print(all(work() == expected for _ in range(5)))
    """
    assert child(code, backend, TRANSFORMER_FAST_NUM_THREADS=str(asked), **variables) == "True"


@pytest.mark.parametrize("value", ["0", "-1", "+2", "many", "1.5", "4096", "2,2", " 2", "2 ", "99999", "\u0662"])
def test_nonsense_number_of_threads_in_the_environment_fails_loudly(value):
    code = "import transformer_fast; print('imported')"
    done = run_python(code=code, check=False, TRANSFORMER_FAST_NUM_THREADS=value)
    assert done.returncode == 1 and "imported" not in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last == f"ImportError: TRANSFORMER_FAST_NUM_THREADS is {value!r}; needed: an integer from 1 to 4095"


def test_what_the_environment_may_say_of_threads():
    assert threads_seen(TRANSFORMER_FAST_NUM_THREADS="1") == 1
    assert threads_seen(TRANSFORMER_FAST_NUM_THREADS="4095") == 4095
    assert threads_seen(TRANSFORMER_FAST_NUM_THREADS="", OMP_NUM_THREADS="3") == 3, "empty: not set"
    for value in ("0", "many", "-3"):
        assert 1 <= threads_seen(OMP_NUM_THREADS=value) <= (os.cpu_count() or 1), "not the library's own: no error"


# the instruction set -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", functional.available_isas())
def test_isa_from_the_environment(name):
    assert printed("import transformer_fast as tf; print(tf.get_isa())", TRANSFORMER_FAST_ISA=name) == name


def test_best_isa_by_default():
    assert printed("import transformer_fast as tf; print(tf.get_isa())") == functional.available_isas()[-1]


@pytest.mark.parametrize("name", ["sse9", "AVX2 ", "avx2,portable"])
def test_unknown_isa_in_the_environment_fails_loudly(name):
    done = run_python(code="import transformer_fast; print('imported')", check=False, TRANSFORMER_FAST_ISA=name)
    assert done.returncode == 1 and "imported" not in done.stdout
    assert name in done.stderr
    for isa in functional.available_isas():
        assert isa in done.stderr.splitlines()[-1]
