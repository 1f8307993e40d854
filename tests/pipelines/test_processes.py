"""pipelines/processes.py, and pipelines that pickle: the same bits in any number of processes, and how these end."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from bge_m3_folders import write_bge_m3
from model_folders import SENTENCES, write_json, write_sentence_model
from multi_vector_folders import write_colbert, write_multi_vector, write_pylate
from pipeline_folders import TEXTS, write_head
from sparse_folders import write_csr, write_router, write_splade
from subprocesses import environment
from text_decoders import write_model

from transformer_fast import BGEM3Encoder, CrossEncoder, MultiVectorEncoder, SentenceEncoder
from transformer_fast.files.errors import CheckpointError
from transformer_fast.pipelines import (
    FillMask,
    HierarchicalTokenPooling,
    LambdaTokenPooling,
    QuestionAnswerer,
    SparseEncoder,
    TextClassifier,
    TokenTagger,
    TruncationWarning,
)

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

LONG = "the cat sat on the mat. " * 9
MANY = [*SENTENCES, *TEXTS, LONG] * 3
PAIRS = [(text, "the cat") for text in MANY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_model(tmp_path_factory.mktemp("sentences") / "model")


@pytest.fixture(scope="module")
def started(folder):
    """A pool of two processes: to start one takes longer than all that is tested with it."""
    with SentenceEncoder.from_pretrained(folder).start_multi_process_pool(["cpu"] * 2) as pool:
        yield pool


@pytest.fixture
def encoder(folder):
    return SentenceEncoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return CrossEncoder.from_pretrained(write_head(tmp_path_factory.mktemp("pairs"), "SequenceClassification", 1))


def same(got, expected) -> bool:
    return len(got) == len(expected) and all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def by_tasks(encoder, **options) -> list:
    """The embeddings of queries, of documents and of texts, one after the other."""
    found = [getattr(encoder, f"encode{kind}")(MANY, **options) for kind in ("_query", "_document", "")]
    return [row for part in found for row in (part.toarray() if hasattr(part, "toarray") else part)]


def all_three(encoder, **options) -> list:
    """bge-m3's."""
    found = encoder.encode(MANY, return_sparse=True, return_colbert_vecs=True, **options)
    weights = [
        np.array(sorted((int(token), weight) for token, weight in one.items())) for one in found["lexical_weights"]
    ]
    return [*found["dense_vecs"], *weights, *found["colbert_vecs"]]


# What runs in pools: the class, what writes a folder, arguments beside it, and what is computed.
MARKERS = {"query_prefix": "[unused0]", "document_prefix": "[unused1]", "attend_to_expansion_tokens": True}
ENCODERS = {
    "splade": (SparseEncoder, write_splade, {}, by_tasks),
    "sparse router": (SparseEncoder, write_router, {}, by_tasks),
    "sparse auto-encoder": (SparseEncoder, write_csr, {}, by_tasks),
    "multi-vector": (
        MultiVectorEncoder,
        lambda path: write_multi_vector(path, pooling={"pool_factor": 2}),
        {},
        by_tasks,
    ),
    "pylate": (MultiVectorEncoder, lambda path: write_pylate(path, MARKERS), {}, by_tasks),
    "colbert": (MultiVectorEncoder, lambda path: write_colbert(path, {"attend_to_mask_tokens": True}), {}, by_tasks),
    "bge-m3": (BGEM3Encoder, write_bge_m3, {}, all_three),
    "reranking language model": (
        CrossEncoder,
        lambda path: write_model(path, "qwen3", "ForCausalLM"),
        {"chat_template": "qwen3-reranker"},
        lambda encoder, **options: encoder.predict(PAIRS, **options),
    ),
}


@pytest.fixture(params=ENCODERS)
def kind(request, tmp_path):
    """An encoder with a packed_cache, and what is computed."""
    if request.param in ("splade", "sparse router", "sparse auto-encoder", "multi-vector"):
        pytest.importorskip("scipy")
    kind, write, options, run = ENCODERS[request.param]
    write(tmp_path / "m")
    return kind.from_pretrained(tmp_path / "m", packed_cache=tmp_path / "cache", **options), run


# pools ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk_size": 1},
        {"chunk_size": 4, "batch_size": 2, "normalize_embeddings": True, "truncate_dim": 5},
        {"prompt": "far ", "precision": "uint8"},
        {"output_value": "token_embeddings", "chunk_size": 7},
        {"convert_to_numpy": False},
    ],
)
def test_a_pool_gives_the_same_bits_in_order(encoder, started, options):
    alone = {name: value for name, value in options.items() if name != "chunk_size"}
    assert same(encoder.encode(iter(MANY), pool=started, **options), encoder.encode(MANY, **alone))


def test_one_text_and_none(encoder, started):
    assert np.array_equal(encoder.encode("dog", pool=started), encoder.encode("dog"))
    assert encoder.encode([], pool=started).shape == (0, 24)


def test_workers_follow_what_is_changed(encoder, started):
    encoder.max_seq_length, encoder.truncate_dim, encoder.prompts["far"] = 6, 7, "far "
    expected = encoder.encode(MANY, prompt_name="far")
    assert np.array_equal(encoder.encode(MANY, prompt_name="far", pool=started), expected)
    with pytest.warns(TruncationWarning) as alone:
        encoder.encode(MANY, show_truncated=True)
    with pytest.warns(TruncationWarning) as together:
        encoder.encode(MANY, show_truncated=True, pool=started, chunk_size=5)
    assert str(alone[0].message) == str(together[0].message)


def test_workers_compute_on_the_level_of_the_call(encoder, started, isa):
    assert np.array_equal(encoder.encode(MANY, pool=started), encoder.encode(MANY))


def test_another_pipeline_in_the_same_pool(encoder, reranker, started):
    assert np.array_equal(reranker.predict(PAIRS, pool=started, chunk_size=3), reranker.predict(PAIRS))
    assert reranker.rank("the dog", TEXTS, pool=started) == reranker.rank("the dog", TEXTS)
    assert np.array_equal(encoder.encode(MANY, pool=started), encoder.encode(MANY))


def test_every_encoder_in_the_same_pool(kind, started):
    encoder, run = kind
    expected = run(encoder)
    assert same(run(encoder, pool=started, chunk_size=5), expected)
    encoder.max_seq_length = 7
    limited = run(encoder)
    assert not same(limited, expected) and same(run(encoder, pool=started), limited), "workers follow what is changed"


def test_options_of_sparse_and_multi_vector_encoders_in_a_pool(tmp_path, started):
    pytest.importorskip("scipy")
    sparse, vectors = write_splade(tmp_path / "a"), write_multi_vector(tmp_path / "b")
    encoder = SparseEncoder.from_pretrained(sparse)
    encoder.prompts["far"] = "far "
    options = {"max_active_dims": 3, "prompt_name": "far", "convert_to_sparse_tensor": False}
    assert same(encoder.encode(MANY, pool=started, chunk_size=2, **options), encoder.encode(MANY, **options))
    assert encoder.encode([], pool=started).shape == encoder.encode([]).shape
    assert np.array_equal(encoder.encode("dog", pool=started).toarray(), encoder.encode("dog").toarray())
    encoder = MultiVectorEncoder.from_pretrained(vectors)
    options = {"normalize_embeddings": True, "token_pooling": HierarchicalTokenPooling(3), "prompt": "far "}
    assert same(encoder.encode_document(MANY, pool=started, **options), encoder.encode_document(MANY, **options))
    assert encoder.encode([], pool=started) == []
    with pytest.raises(TypeError, match="a LambdaTokenPooling cannot be sent to another process"):
        encoder.encode(MANY, pool=started, token_pooling=LambdaTokenPooling(lambda rows: rows[:1]))
    assert same(encoder.encode(MANY, pool=started), encoder.encode(MANY)), "it goes on"


def test_scores_of_bge_m3_in_a_pool(tmp_path, started):
    encoder = BGEM3Encoder.from_pretrained(write_bge_m3(tmp_path / "m"))
    assert encoder.compute_score(PAIRS, pool=started, chunk_size=5) == encoder.compute_score(PAIRS)
    assert (
        encoder.encode("dog", pool=started, return_sparse=True)["lexical_weights"]
        == (encoder.encode("dog", return_sparse=True)["lexical_weights"])
    )
    with pytest.raises(ValueError, match="chunk_size is 3; needed: pool or a list of devices"):
        encoder.compute_score(PAIRS, chunk_size=3)


@pytest.mark.parametrize("name", ["splade", "multi-vector", "bge-m3"])
def test_a_list_of_devices_for_other_encoders(name, tmp_path):
    pytest.importorskip("scipy")
    kind, write, _, _ = ENCODERS[name]
    write(tmp_path / "m")
    encoder, before = kind.from_pretrained(tmp_path / "m"), set(multiprocessing.active_children())
    with pytest.raises(ValueError, match="device is 'cuda'; needed: 'cpu'"):
        encoder.encode(MANY, device=["cpu", "cuda"])
    found = encoder.encode(MANY[:3], device=["cpu"])
    assert len(found["dense_vecs"] if name == "bge-m3" else found if name == "multi-vector" else found.toarray()) == 3
    assert set(multiprocessing.active_children()) == before


def test_an_error_in_a_worker_is_this_process_error(encoder, started):
    for text in (r"the text '\\ud800' holds a lone surrogate", r"the text 'b\\ud800'"):
        bad = "\ud800" if "b" not in text.partition("'")[2] else "b\ud800"
        with pytest.raises(ValueError, match=text) as raised:
            encoder.encode([*MANY, bad, *MANY], pool=started, chunk_size=1)
        assert "in the process" in str(raised.value.__cause__)
    assert np.array_equal(encoder.encode(MANY, pool=started), encoder.encode(MANY)), "it goes on"


def test_a_call_that_is_left_does_not_disturb_the_next(encoder, started):
    chunks = started.chunks(len(MANY), 32, 1)
    job = (None, "", 32, "sentence_embedding", False, None, None)
    left = started.results(encoder, "_encode_chunk", MANY, chunks, job, False)
    next(left)
    left.close()
    assert np.array_equal(encoder.encode(MANY, pool=started), encoder.encode(MANY))


def test_chunks(started):
    def sizes(*arguments):
        return [chunk.stop - chunk.start for chunk in started.chunks(*arguments)]

    assert sizes(0, 32, None) == [] and sizes(3, 32, None) == [2, 1]
    assert sizes(100, 32, None) == [32, 32, 32, 4], "batches stay whole"
    assert len(sizes(10_000, 32, None)) == 20 and max(sizes(1_000_000, 32, None)) == 5000
    assert sizes(7, 32, 3) == [3, 3, 1]


def test_a_list_of_devices_starts_and_ends_processes(encoder):
    before = set(multiprocessing.active_children())
    assert np.array_equal(encoder.encode(MANY, device=["cpu"], chunk_size=5), encoder.encode(MANY))
    assert set(multiprocessing.active_children()) == before


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_worker_that_dies_is_an_error_and_closes_the_pool(encoder):
    with encoder.start_multi_process_pool(["cpu"]) as pool:
        (process,) = pool.processes
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="a process of the pool ended with exit code -9, and the pool is closed"):
            encoder.encode(MANY, pool=pool)
        with pytest.raises(RuntimeError, match="the pool is closed"):
            encoder.encode(MANY, pool=pool)
        assert not process.is_alive() and "closed" in repr(pool)
    encoder.stop_multi_process_pool(pool)  # twice is no error


def test_pipelines_that_cannot_be_sent_and_calls_that_do_not_fit(encoder, reranker, started, tmp_path):
    moving = write_sentence_model(tmp_path / "model")
    gone = SentenceEncoder.from_pretrained(moving)
    moving.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        gone.encode(MANY, pool=started)
    other = copy.copy(reranker)
    other.activation_fn = lambda x: x * 2
    with pytest.raises(TypeError, match=r"CrossEncoder\.activation_fn cannot be sent to another process"):
        other.predict(PAIRS, pool=started)
    with pytest.raises(ValueError, match="pool is .* and device is .*; needed: one of them"):
        encoder.encode(MANY, pool=started, device=["cpu"])
    with pytest.raises(ValueError, match="device is 'cuda:0'; needed: 'cpu'"):
        encoder.start_multi_process_pool(["cuda:0"])
    with pytest.raises(ValueError, match="target_devices is 'cpu'; needed: a list"):
        encoder.start_multi_process_pool("cpu")


SCRIPT = """
    import os, sys, time
    from transformer_fast import SentenceEncoder

    def run():
        encoder = SentenceEncoder.from_pretrained({folder!r})
        with encoder.start_multi_process_pool(["cpu"] * 2) as pool:
            print(*[process.pid for process in pool.processes], flush=True)
            while True:
                encoder.encode(["the cat sat on the mat."] * 50, pool=pool, chunk_size=1)

    {guard}run()
"""


def script(tmp_path, folder, guard: str) -> subprocess.Popen:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT).format(folder=str(folder), guard=guard))
    return subprocess.Popen(
        [sys.executable, str(path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_no_process_outlives_the_one_that_started_it(tmp_path, folder, how):
    running = script(tmp_path, folder, 'if __name__ == "__main__":\n        ')
    pids = [int(pid) for pid in running.stdout.readline().split()]
    assert len(pids) == 2 and all(map(runs, pids))
    time.sleep(0.2)  # amid the calls
    if how == "Ctrl-C":
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: all of the group get it
        assert "KeyboardInterrupt" in running.communicate(timeout=60)[1]
    else:
        running.kill()
        running.communicate(timeout=60)
    until = time.monotonic() + 30
    while any(map(runs, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(runs, pids))


def test_a_script_without_a_guard_is_told(tmp_path, folder):
    running = script(tmp_path, folder, "")
    _, errors = running.communicate(timeout=60)
    assert running.returncode and 'needs `if __name__ == "__main__":`' in errors


# pickles -------------------------------------------------------------------------------------------------------------


def test_encoders_pickle_as_path_options_and_changes(folder, tmp_path):
    encoder = SentenceEncoder.from_pretrained(folder, compute_type="int8", similarity_fn_name="dot")
    encoder.max_seq_length, encoder.truncate_dim = 7, 11
    encoder.prompts["far"], encoder.default_prompt_name = "far ", "far"
    content = pickle.dumps(encoder)
    assert len(content) < 2000
    for other in (pickle.loads(content), copy.deepcopy(encoder)):
        assert np.array_equal(other.encode(MANY), encoder.encode(MANY))
        assert other.max_seq_length == 7 and other.prompts == encoder.prompts
        assert other.similarity_fn_name == "dot" and other.get_embedding_dimension() == 11
        other.prompts["near"], other.max_seq_length = "near ", 5
        assert "near" not in encoder.prompts and encoder.max_seq_length == 7


def test_every_encoder_pickles_as_its_files(kind, tmp_path):
    encoder, run = kind
    encoder.max_seq_length = 30
    files, content = len(list((tmp_path / "cache").iterdir())), pickle.dumps(encoder)
    assert files == 1 and len(content) < 2000
    for other in (pickle.loads(content), copy.deepcopy(encoder)):
        assert same(run(other), run(encoder)) and other.max_seq_length == 30
        other.max_seq_length = 5
        assert encoder.max_seq_length == 30
    assert len(list((tmp_path / "cache").iterdir())) == files, "nothing was packed anew"


def test_a_reranker_whose_weights_were_changed_pickles_with_them(tmp_path):
    folder = write_model(tmp_path / "m", "qwen3", "ForCausalLM")
    encoder = CrossEncoder.from_pretrained(folder, chat_template="qwen3-reranker")
    before, head = encoder.predict(PAIRS), encoder.model.lm_head
    head.weight = head.weight * 2
    again = pickle.loads(pickle.dumps(encoder))
    assert np.array_equal(again.predict(PAIRS), encoder.predict(PAIRS)) and not np.array_equal(
        again.predict(PAIRS), before
    )
    assert again.model.token_ids == encoder.model.token_ids


def test_modules_after_the_pooling_pickle_as_their_files(tmp_path):
    from safetensors.numpy import save_file

    folder = write_sentence_model(tmp_path / "model")
    modules = ["Transformer", "Pooling", "Dense", "Normalize"]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.{kind}"}
            for i, kind in enumerate(modules)
        ],
    )
    (folder / "2_Dense").mkdir()
    write_json(folder / "2_Dense" / "config.json", {"in_features": 24, "out_features": 100, "bias": False})
    weight = np.random.default_rng(0).standard_normal((100, 24)).astype(np.float32)
    save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    encoder = SentenceEncoder.from_pretrained(folder)
    content = pickle.dumps(encoder)
    assert len(content) < 2500
    for other in (pickle.loads(content), copy.deepcopy(encoder)):
        assert np.array_equal(other.encode(MANY), encoder.encode(MANY))


def test_cross_encoders_pickle_with_their_activation(reranker):
    other = copy.copy(reranker)
    other.activation_fn, other.max_seq_length = np.tanh, 9
    content = pickle.dumps(other)
    assert len(content) < 2000
    for again in (pickle.loads(content), copy.deepcopy(other)):
        assert np.array_equal(again.predict(PAIRS), other.predict(PAIRS)) and again.activation_fn is np.tanh
    other.activation_fn = lambda x: x
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(other)


@pytest.mark.parametrize(
    "kind, task",
    [
        (TextClassifier, "SequenceClassification"),
        (TokenTagger, "TokenClassification"),
        (FillMask, "MaskedLM"),
        (QuestionAnswerer, "QuestionAnswering"),
    ],
)
def test_other_pipelines_pickle_by_the_same_way(tmp_path, kind, task):
    pipeline = kind.from_pretrained(write_head(tmp_path, task), packed_cache=tmp_path / "cache")
    content = pickle.dumps(pipeline)
    arguments = ("the cat?", "the cat sat") if task == "QuestionAnswering" else ("the [MASK] sat",)
    assert len(content) < 3000
    assert pickle.loads(content)(*arguments) == copy.deepcopy(pipeline)(*arguments) == pipeline(*arguments)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_executors(encoder, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system does not start processes so")
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as executor:
        assert np.array_equal(executor.submit(encoder.encode, MANY).result(), encoder.encode(MANY))


def test_joblib(encoder):
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="loky", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(encoder.encode)(part) for part in (MANY[:5], MANY[5:]))
    assert np.array_equal(np.concatenate(found), encoder.encode(MANY))
