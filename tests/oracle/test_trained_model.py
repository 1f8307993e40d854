"""A small language model that torch trains here on Python's source: what formats cost it, and whose tokens it writes.

Random weights tell neither: their perplexity says nothing, and their best tokens are ties. The code and the bounds are
those of benchmarks/perplexity.py, whose model is larger. llama.cpp takes part where llama-cpp-python is installed,
which the extra `oracle` leaves out, since its build takes ten minutes.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from subprocesses import ROOT

from transformer_fast import load_model

pytestmark = [pytest.mark.oracle, pytest.mark.slow]
if not (ROOT / "benchmarks" / "__init__.py").exists():
    pytest.skip("the benchmarks are not part of this tree", allow_module_level=True)

# 150 steps of 8 x 128 bytes: 18 s of processor time on Zen 4, and a perplexity a byte of 10.8.
SMALL = {"intermediate_size": 256, "num_hidden_layers": 2}
STEPS, LENGTH = 150, 128
NEW = 32


@pytest.fixture(scope="module")
def load():
    """Imports a module of benchmarks/. At the end of sys.path, the checkout hides no installed package."""
    sys.path.append(str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def checkpoint(load, tmp_path_factory):
    byte_model = load("byte_model")
    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    byte_model.train(folder, byte_model.CONFIG | SMALL, STEPS, LENGTH)
    return folder


@pytest.fixture(scope="module")
def forms(load, checkpoint):
    """Form -> path of the GGUF files that llama.cpp's quantiser makes of the checkpoint."""
    for name in ("gguf", "llama_cpp"):
        pytest.importorskip(name)
    wanted = [*load("perplexity").FILES.values(), *load("greedy").FORMATS.values()]
    return load("artifacts").convert(checkpoint, checkpoint.parent, list(dict.fromkeys(wanted)), print)


def entries(rows):
    return {row["case"]["name"]: row["lanes"]["ours"] for row in rows}


def test_perplexity(load, checkpoint):
    perplexity = load("perplexity")
    ids = load("byte_model").judged_rows(32, LENGTH, seed=1)
    found = entries([*perplexity.weight_rows(checkpoint, ids), *perplexity.cache_rows(checkpoint, ids)])
    assert 2 < found["weights float32"]["perplexity"] < 16  # it has learnt: 256 without
    assert found["weights float32"]["change"] == found["cache float32"]["change"] == 0
    narrow = [f"weights {name}" for name in ("bfloat16", "int8", "int8_a16")]
    for name in (*narrow, "cache bfloat16", "cache float16", "cache int8"):
        assert 0 < abs(found[name]["change"]) <= 0.3, (name, found[name])


def test_perplexity_of_files(load, checkpoint, forms):
    ids = load("byte_model").judged_rows(32, LENGTH, seed=1)
    found = entries(load("perplexity").file_rows(checkpoint, forms, ids))
    assert abs(found["file Q8_0"]["change"]) <= 0.3 and abs(found["file Q4_K"]["change"]) <= 2, found
    for name, entry in found.items():  # what the file has lost is lost; products with x in 16 bits lose nothing more
        bound = 0.3 if name.endswith("auto_a8") else 0.02
        assert abs(entry["change"] - entry["of_values"]) <= bound, (name, entry)


@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0", "Q4_0", "Q4_K"])
def test_greedy_tokens(load, forms, name):
    """llama.cpp's and float32's, for the 100 prompts of 400 whose choices are the clearest in float32."""
    greedy = load("greedy")
    path = forms[greedy.FORMATS[name]]
    prompts = load("byte_model").judged_rows(400, 64, seed=2)
    model = load_model(path, compute_type="float32")
    whole = model.generate(prompts, max_new_tokens=NEW, eos_token_id=None)
    best = np.sort(model(whole[:, :-1]).logits[:, prompts.shape[1] - 1 :], axis=-1)[..., -2:]
    least_margins = np.diff(best)[..., 0].min(axis=1)
    clear = np.argsort(-least_margins)[:100]
    # No ties: the least margin is 1.3 to 1.4, where rounding x to 8 bits was seen to swap tokens 0.055 apart at most.
    assert least_margins[clear].min() > 0.5
    found = greedy.compare(name, path, prompts[clear], NEW, threads=1)
    assert found["ours_float32"] == found["ours_llama_cpp"] == found.get("ours_a8_float32", 100) == 100, found
