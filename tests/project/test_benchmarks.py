"""benchmarks/: what it counts and claims, and that a run measures, judges and reports; no figure is checked here."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys

import numpy as np
import pytest
from subprocesses import PACKAGE_PARENT, ROOT

from transformer_fast import reference

if not (ROOT / "benchmarks" / "__init__.py").exists():
    pytest.skip("the benchmarks are not part of this tree", allow_module_level=True)


@pytest.fixture(scope="module")
def load():
    """Imports a module of benchmarks/. At the end of sys.path, the checkout hides no installed package."""
    before = list(sys.path)  # which may hold the checkout itself, for later tests' processes as well
    sys.path.append(str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    sys.path[:] = before


def test_cases_survive_json(load):
    wire = load("wire")
    cases = [*load("attention").MUST_SHOW, *load("attention").GRID, *load("linear").CASES]
    cases += [wire.ModelCase("m", "minilm", 2, 8), wire.TextsCase("t", "minilm", 10)]
    cases += [one.case for one in load("families").measured()]
    cases += load("late_interaction").CASES
    cases += [*load("sparse").mask_cases(), *load("sparse").paged_cases()]
    cases += [*load("retrieval").cases(), *load("retrieval").deberta_cases()]
    for case in cases:
        assert wire.from_json(json.loads(json.dumps(wire.to_json(case)))) == case


def test_names_are_unique_and_the_grid_is_large(load):
    attention, linear, families = load("attention"), load("linear"), load("families")
    names = [case.name for case in (*attention.MUST_SHOW, *attention.GRID)]
    assert len(set(names)) == len(names)
    assert len(attention.GRID) >= 80
    assert {1, 4, 16, 32} <= {case.Lq for case in attention.GRID}
    assert len({case.name for case in linear.CASES}) == len(linear.CASES)
    measured = families.measured()
    assert len({one.case.name for one in measured}) == len(measured)
    assert {type(one.case) for one in measured if families.is_small(one)} == {type(one.case) for one in measured}


@pytest.mark.parametrize(
    "question",
    [
        "attention",
        "sparse",
        "late_interaction",
        "linear",
        "models",
        "families",
        "low_precision",
        "decoders",
        "perplexity",
        "retrieval",
    ],
)
def test_claims_are_about_cases_that_exist(load, question):
    """A result in which everything lasts one second leaves no claim of its thread count unmeasured."""
    module, claims = load(question), load("claims")
    if question == "models":
        names = [name for model in module.MODELS for name in module._names(model)] + [module._TEXTS_NAME]
        works = [(name, 1) for name in names]
    elif question == "families":
        works = [(one.case.name, one.stream_bytes) for one in module.measured()]
    elif question == "attention":
        works = [(work.case.name, work.stream_bytes) for work in module.works(quick=False)]
    elif question == "low_precision":
        works = [(case.name, 0) for case in (*module.linear_cases(), *module.model_cases())]
        works.append((load("models").texts_case().name, 0))
    elif question == "decoders":
        works = [(case.name, 1) for case in module.cases()]
    elif question == "sparse":
        works = [(case.name, 0) for case in (*module.mask_cases(), *module.paged_cases())]
    elif question == "retrieval":
        works = [(case.name, 0) for case in (*module.cases(), *module.deberta_cases())]
    elif question == "perplexity":
        works = [(name, 0) for name in module.case_names()]
    else:
        works = [(case.name, 1) for case in module.CASES]
    figures = {"seconds": 1.0, "of_peak": 1.0, "of_read": 1.0, "max_error": 0.0, "change": 0.0, "gflops": 1.0}
    figures |= {"ours_llama_cpp": 100, "ours_float32": 100}
    labels = [*load("backends").NAMES, "ours, 1 thread", "ours, avx2"]
    isa, thread_counts = "avx512", (1, 2)
    if question in ("low_precision", "decoders", "sparse", "retrieval"):
        labels, isa, thread_counts = module.LABELS, "avx2", (1,)
    for threads in thread_counts:
        result = {
            "threads": threads,
            "isa": isa,
            "search_bytes": 0,
            "loading": {"minilm": {"seconds": 1.0, "memory_of_weights": 1.0}},
            "rows": [{"case": {"name": name}, "lanes": dict.fromkeys(labels, figures)} for name, _ in works],
        }
        verdicts = claims.judge(result, module.CLAIMS)
        assert verdicts and not [v["claim"] for v in verdicts if v["value"] is None]


@pytest.mark.parametrize(
    "machine, n, name", [("Zen 4", 1, "zen4/linear-avx512-1thread"), ("", 2, "unnamed/linear-avx512-2threads")]
)
def test_results_of_different_machines_go_to_different_files(load, machine, n, name):
    called = {"name": machine} if machine else {}
    result = {"benchmark": "linear", "machine": called, "isa": "avx512", "threads": n}
    assert load("runner").place(result) == f"{name}.json"


def test_a_machine_without_a_name_for_its_files(load, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "linear", "--machine", "*"])
    with pytest.raises(SystemExit):
        load("__main__")._arguments()
    assert "--machine is '*'; letters or digits are needed" in capsys.readouterr().err


RESULTS = ROOT / "benchmarks" / "results"
needs_results = pytest.mark.skipif(not RESULTS.is_dir(), reason="an sdist has no results")


@needs_results
def test_tables_are_those_of_the_results(load, tmp_path):
    """The tables beside the results and the headlines in docs/ are what the report makes of the files today."""
    report = load("report")
    folders = sorted(folder for folder in RESULTS.iterdir() if folder.is_dir())
    assert folders
    for folder in folders:
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        report.write_tables(copy)
        assert (copy / report.TABLES).read_text(encoding="utf-8") == (folder / report.TABLES).read_text(
            encoding="utf-8"
        )
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert report.headlines(folders) in page
    assert page.count("\n") <= 200


@needs_results
@pytest.mark.parametrize("page", ["README.md", "docs/performance.md", "benchmarks/README.md"])
def test_results_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for place in re.findall(r"\]\((?:\.\./)?(?:benchmarks/)?(results/[^)]*)\)", text):
        assert (ROOT / "benchmarks" / place).exists(), place
    for question in re.findall(r"`(\w+-\w+-\dthreads?\.json)`", text):
        assert list(RESULTS.glob(f"*/{question}")), question


def test_what_is_missing_is_never_held(load):
    claims = load("claims")
    result = {"threads": 1, "isa": "avx512", "rows": []}
    verdicts = claims.judge(result, [claims.of_peak("x", "no such case", 0.0), claims.never_slower("torch")])
    assert [verdict["holds"] for verdict in verdicts] == [None, None]
    assert all("unmeasured" in verdict["remark"] for verdict in verdicts)


def test_useful_flops_of_key_lengths(load):
    attention = load("attention")
    case = next(case for case in attention.GRID if case.ragged)
    _, options = case.make_inputs()
    pairs = case.H * case.Lq * int(options["kv_lengths"].sum())
    assert attention.useful_flops(case) == 2 * pairs * (case.D + case.Dv)


def test_what_a_step_of_gpt2_reads_and_computes(load):
    """The matrices of GPT-2 small are 124 million numbers but for its positions and vectors."""
    families = load("families")
    numbers = families._gpt2_stream_bytes() / 4
    assert 123e6 < numbers < 125e6
    assert families._gpt2_flops(1, 0, 1, 1) == pytest.approx(2 * numbers, rel=1e-3)
    assert families._gpt2_flops(2, 0, 3, 3) == 2 * sum(families._gpt2_flops(1, past, 1, 1) for past in range(3))


def test_structures_say_the_same_twice(load):
    """The formula that peers and the expected rows have, and our mask."""
    from transformer_fast import masks

    structures, wire = load("structures"), load("wire")
    for name in structures.STRUCTURES:
        L = 1024 if structures.STRUCTURES[name].random else 1000
        case = wire.MaskCase(name, name, 1, L, 8)
        arrays = structures.arrays_of(case, structures.tables(case))
        seen = structures.STRUCTURES[name].formula(np.arange(L)[:, None], np.arange(L), arrays)
        np.testing.assert_array_equal(structures.mask(case).dense(L, L)[0, 0], seen, err_msg=name)
        assert 0 < seen.mean() < 1
    assert isinstance(structures.mask(case), masks.Mask)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_layouts_of_pages_give_the_same(load, heads):
    sparse, wire, runner = load("sparse"), load("wire"), load("runner")
    ours = load("backends.ours").Ours(1)
    for layout in ("separate", "pages", "shared"):
        case = wire.PagedCase("pages", layout, 3, *heads, 16, 128, 64)
        work = sparse.paged_work(case)
        (variant,) = ours.paged(case)
        got = variant.read(variant.call()).reshape(-1, case.D)
        np.testing.assert_allclose(got[work.rows], sparse._expected_of_pages(case)[1], atol=2e-6, err_msg=layout)
    lanes = {lane.label: work.of(lane) for lane in sparse.lanes([], 1)}
    assert isinstance(work, runner.Work) and lanes[sparse.SHARED].stream_bytes < lanes[sparse.PAGES].stream_bytes


@pytest.mark.slow
def test_masks_take_turns_with_the_dense_call(load, tmp_path):
    """Two small cases, measured by ours in all lanes, and the tables that the report makes of them."""
    claims, report, runner, sparse, wire = map(load, ("claims", "report", "runner", "sparse", "wire"))
    works = [
        sparse.mask_work(wire.MaskCase("strided 256", "strided", 1, 256, 16), False, dense=True),
        sparse.paged_work(wire.PagedCase("pages", "separate", 2, 4, 2, 16, 64, 64)),
    ]
    settings = {"isa": None, "rounds": 2, "sample_seconds": 0.001, "report": lambda _: None}
    with runner.Run("masks", sparse.lanes([], 1), **settings) as session:
        for work in works:
            session.measure(work)
        held = session.ask("ours", "workspace", case=wire.to_json(works[0].case))["bytes"]
        session.extra["workspace_bytes"] = {works[0].case.name: held}
        result = session.result()
    assert held > 0
    for row, labels in zip(
        result["rows"], ((sparse.DENSE, sparse.IN_THE_CALL), (sparse.PAGES, sparse.SHARED)), strict=True
    ):
        assert set(row["lanes"]) == {"ours", *labels}
        assert all(entry["max_error"] < 1e-5 for entry in row["lanes"].values()), row["lanes"]
    result["claims"] = claims.judge(result, sparse.CLAIMS)
    path = tmp_path / "masks-avx2-1thread.json"
    path.write_text(runner.to_text(result), encoding="utf-8")
    text = report.markdown([path])
    assert "| Case | visible | time | compiled in the call | dense | cost |" in text
    assert "| Case | separate | of read | pages of 64 | of read | shared |" in text


def small_cases(load):
    names = r"small 8x12x4x32|curve window 256|key lengths 128|boolean mask 128|additive mask 128|decode, groups 512"
    return [case for case in load("attention").GRID if re.match(rf"({names}|groups, causal 128)$", case.name)]


def test_expected_rows_and_numpy_twin(load):
    """The sampled float64 rows are rows of the reference, and every variant of NumPy's attention gives them."""
    attention, numpy = load("attention"), load("backends.numpy")
    cases = small_cases(load)
    assert len(cases) == 7
    for case in cases:
        arrays, options = case.make_inputs(np.float64)
        whole = reference.scaled_dot_product_attention(*arrays, **options).reshape(-1, case.Dv)
        rows = attention._rows(case)
        np.testing.assert_allclose(attention.expected(case), whole[rows], atol=1e-6)
        for variant in numpy.NumPy(1).attention(case):
            got = variant.read(variant.call()).reshape(-1, case.Dv)
            np.testing.assert_allclose(got[rows], whole[rows], atol=5e-6, err_msg=f"{case.name}: {variant.name}")


def test_masks_say_what_the_options_say(load):
    masks = load("masks")
    for case in small_cases(load):
        arrays, options = case.make_inputs(np.float64)
        gqa = {"enable_gqa": True} if case.Hkv != case.H else {}
        expected = reference.scaled_dot_product_attention(*arrays, **options)
        for mask in (masks.additive(case, options), masks.as_4d(case, masks.additive(case, options))):
            got = reference.scaled_dot_product_attention(*arrays, mask, **gqa)
            np.testing.assert_allclose(got, expected, atol=1e-9, err_msg=case.name)


@pytest.mark.slow
def test_a_run_measures_judges_and_reports(load, tmp_path):
    pytest.importorskip("threadpoolctl")
    claims, report, runner = load("claims"), load("report"), load("runner")
    attention = load("attention")
    works = {work.case.name: work for work in attention.works(quick=False)}
    lanes = [runner.Lane("ours", "ours", 1), runner.Lane("numpy", "numpy", 1)]
    with runner.Run("attention", lanes, isa=None, rounds=2, sample_seconds=0.001, report=lambda _: None) as session:
        for name in ("small 1x1x4x64", "curve decode 64"):
            session.measure(works[name])
        assert session.ask("torch", "time") == {"unsupported": "not in this run"}
        session.workers["numpy"].process.kill()
        session.measure(works["small 1x1x1x64"])
        result = session.result()
    assert "ended with code" in result["backends"]["numpy"]["missing"]
    assert "ended with code" in result["rows"].pop()["lanes"]["numpy"]["unsupported"]
    result["claims"] = claims.judge(result, attention.CLAIMS)
    path = tmp_path / "attention-avx2-1thread.json"
    path.write_text(runner.to_text(result), encoding="utf-8")
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored.keys() == result.keys() and len(stored["rows"]) == len(result["rows"])
    for row in result["rows"]:
        assert row["lanes"]["ours"]["max_error"] < 1e-5 and row["lanes"]["numpy"]["max_error"] < 1e-5
        assert row["lanes"]["ours"]["turns"] == 2
    assert result["rows"][1]["lanes"]["ours"]["of_read"] > 0
    for _ in range(2):  # the second time replaces the first
        report.write_tables(tmp_path)
    # At the beginning of a line: the remark of a claim may name it, too.
    assert (tmp_path / report.TABLES).read_text(encoding="utf-8").count("\n| small 1x1x4x64 |") == 1


@pytest.mark.slow
def test_a_missing_peer_is_named_and_skipped(load, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    runner, said = load("runner"), []
    lanes = [runner.Lane("ours", "ours", 1), runner.Lane("torch", "torch", 1)]
    with runner.Run("attention", lanes, isa=None, rounds=1, sample_seconds=0.001, report=said.append) as session:
        result = session.result()
    assert "no torch here" in result["backends"]["torch"]["missing"]
    assert any(line.startswith("torch is missing and skipped") for line in said)


@pytest.mark.slow
def test_narrow_numbers_take_turns_with_float32(load, tmp_path):
    """The small layer in every compute type of ours, and the tables that the report makes of it."""
    claims, low_precision, report, runner = map(load, ("claims", "low_precision", "report", "runner"))
    lanes = low_precision.lanes([], 1)
    assert {lane.label for lane in lanes} == {"ours", *low_precision.OURS}
    assert {lane.label for lane in low_precision.lanes(load("backends").NAMES, 1)} == set(low_precision.LABELS)
    (case,) = low_precision.linear_cases(quick=True)
    settings = {"isa": None, "rounds": 2, "sample_seconds": 0.001, "report": lambda _: None}
    with runner.Run("low_precision", lanes, **settings) as session:
        session.measure(low_precision.linear_work(case))
        result = session.result()
    (row,) = result["rows"]
    for label in ("ours", *low_precision.OURS):
        assert row["lanes"][label]["turns"] == 2
        assert 0.99 < row["lanes"][label]["least_cosine"] <= row["lanes"][label]["mean_cosine"] < 1 + 1e-9
    errors = {label: row["lanes"][label]["max_error"] for label in row["lanes"]}
    assert errors["ours"] < 1e-5 < errors["ours, int8_a16"] < errors["ours, int8"]
    result["claims"] = claims.judge(result, low_precision.CLAIMS)
    (tmp_path / "low_precision-avx2-1thread.json").write_text(runner.to_text(result), encoding="utf-8")
    report.write_tables(tmp_path)
    text = (tmp_path / report.TABLES).read_text(encoding="utf-8")
    assert "## Low precision, 1 thread" in text
    assert "| Case | float32 | int8 | int8_a16 | bfloat16 |" in text
    assert report.headlines([tmp_path]) == ""  # they stand beside those of float32


@pytest.mark.slow
def test_narrow_models_and_peers_agree(load, tmp_path):
    """A tiny encoder in every compute type, and in those of the peers that are installed."""
    pytest.importorskip("safetensors")
    low_precision, runner, wire = map(load, ("low_precision", "runner", "wire"))
    from model_folders import bert_tensors, write_bert

    config = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 1100, "hidden_size": 32}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "hidden_act": "gelu"}
    config |= {"max_position_embeddings": 32, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
    write_bert(tmp_path, config, bert_tensors(config))
    found = {"checkpoint": str(tmp_path), "config": config}
    lanes, said = low_precision.lanes(["torch", "ctranslate2"], 1), []
    with runner.Run("low_precision", lanes, isa=None, rounds=1, sample_seconds=0.001, report=said.append) as session:
        session.measure(low_precision.model_work(wire.ModelCase("tiny", "minilm", 3, 8), found))
        entries = session.result()["rows"][0]["lanes"]
        compared = "torch" in session.workers
    for label in ("ours", *low_precision.OURS):
        assert "seconds" in entries[label], entries[label]
        assert not compared or entries[label]["least_cosine"] > 0.99, (label, entries[label])
    # Missing, or without a converted model: either way it is said, and nothing is measured in its name.
    assert "unsupported" in entries["ctranslate2, int8"]
    assert any(line.lstrip().startswith("ctranslate2, int8") for line in said)


def test_perplexity_through_caches(load, tmp_path):
    """Token by token the losses are those of whole rows; a narrow cache changes them, and little."""
    pytest.importorskip("safetensors")
    from decoder_cases import write

    from transformer_fast import load_model

    perplexity = load("perplexity")
    model = load_model(write(tmp_path, "llama"))
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (perplexity._BATCH + 1, 8))
    whole = perplexity.losses(model, ids)
    assert whole.shape == (len(ids), 7)
    found = {name: perplexity.losses_with_cache(model, ids, name) for name in perplexity.CACHES}
    np.testing.assert_allclose(found["float32"], whole[:, 4:], rtol=0, atol=1e-5)
    for name in ("bfloat16", "float16", "int8"):
        assert 0 < np.abs(found[name] - found["float32"]).max() < 0.2, name
    figures = perplexity.figures(whole + np.log(1.01), whole)
    assert figures["change"] == pytest.approx(1) and figures["error"] == pytest.approx(0, abs=1e-9)
    rows = [*perplexity.weight_rows(tmp_path, ids), *perplexity.cache_rows(tmp_path, ids)]
    named = [row["case"]["name"] for row in rows]
    assert named == perplexity.case_names()[: len(perplexity.WEIGHTS)] + [f"cache {name}" for name in perplexity.CACHES]


def test_cosine_bounds(load):
    """Rows that are pooled become one vector; a bound that is not kept is named, NaN among them."""
    bounds = load("worker")._Bounds
    expected = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [2.0, 2.0]])
    got = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    found = bounds(None, 0.9, 2).measure(got, expected)
    assert found == {"max_error": 1.0, "mean_cosine": pytest.approx(1), "least_cosine": pytest.approx(1)}
    assert bounds(None, 0.9, 1).measure(got, expected)["error"] == "a cosine of 0, needed: at least 0.9"
    assert "error" in bounds(None, 0.9, 2).measure(np.full((4, 2), np.nan), expected)
    assert bounds(0.5, None, 1).measure(got, expected) == {"max_error": 1.0, "error": "beyond the tolerance"}


@pytest.mark.slow
def test_two_builds_are_compared(load, tmp_path, capsys):
    """The package under test with itself: the same bits, and ratios that the medians give."""
    compare = load("compare")
    with pytest.raises(ValueError, match="needed: a folder that holds transformer_fast, or a Python executable"):
        compare.lane("old", str(tmp_path), 1, None)
    lanes = [compare.lane(build, str(PACKAGE_PARENT), 1, None) for build in compare.BUILDS]
    with compare.Comparison(lanes, rounds=5, sample_seconds=0.001, say=lambda _: None) as comparison:
        chosen = r"^(1 x 384 -> 384|small 1x1x4x64|.* texts)$"
        rows = compare.run(comparison, ["attention", "linear"], True, chosen, lambda _: None)
    assert [row.case.name for row in rows] == ["small 1x1x4x64", "1 x 384 -> 384"]
    for row in rows:
        assert row.same_bits and not row.failure
        assert len(row.seconds["old"]) == len(row.seconds["new"]) >= 5
        assert row.ratio == row.median("old") / row.median("new")
    stored = json.loads(json.dumps(compare.as_json(rows, comparison.about)))
    assert [row["ratio"] for row in stored["rows"]] == [row.ratio for row in rows]
    lines = compare.summary(rows).splitlines()
    assert lines[4].startswith("| all | 2 |") and sum("| same |" in line for line in lines) == 2


# Class and config of transformers with few numbers, for each model of families.py.
TINY = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 90, "n_positions": 32, "n_embd": 8, "n_layer": 2, "n_head": 2, "bos_token_id": 89}
        | {"eos_token_id": 89},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 90, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
        | {"decoder_start_token_id": 0},
    ),
    "vit": (
        "ViTModel",
        "ViTConfig",
        {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 12, "num_attention_heads": 2},
    ),
    "big_bird": (
        "BigBirdModel",
        "BigBirdConfig",
        {"vocab_size": 1100, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 12}
        | {"num_attention_heads": 2, "max_position_embeddings": 32, "block_size": 2, "num_random_blocks": 1},
    ),
    "whisper": (
        "WhisperModel",
        "WhisperConfig",
        {"vocab_size": 90, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "pad_token_id": 1}
        | {"bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2},
    ),
}


@pytest.mark.slow
@pytest.mark.oracle
def test_peers_of_families_agree(load, tmp_path):
    """Each kind of case on tiny models: both peers are measured, and neither is beyond the tolerance."""
    for name in ("torch", "transformers", "safetensors"):
        pytest.importorskip(name)
    artifacts, families, runner, wire = map(load, ("artifacts", "families", "runner", "wire"))
    cases = [
        wire.PrefillCase("prefill", "gpt2", 2, 5),
        wire.DecodeCase("decode", "gpt2", 3, 5, 2),
        wire.GenerateCase("generate", "gpt2", 2, 4, 3),
        wire.GenerateCase("beams", "t5", 2, 5, 4, beams=3),
        wire.FeaturesCase("pictures", "vit", (2, 3, 224, 224)),
        wire.FeaturesCase("sound", "whisper", (1, 80, 3000)),
        wire.ModelCase("long text", "big_bird", 2, 20),
        *(wire.ModuleCase(case.name, case.module, case.width, 2, 6) for case, _ in families._MODULES),
    ]
    found = {}
    for model, (model_class, config_class, fields) in TINY.items():
        folder = tmp_path / model
        artifacts.random_model(model_class, config_class, fields).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found[model] = {"checkpoint": str(folder), "config": config}
    lanes = [runner.Lane(name, name, 1) for name in ("ours", "torch")]
    with runner.Run("families", lanes, isa=None, rounds=1, sample_seconds=0.001, report=lambda _: None) as session:
        for case in cases:
            one = families.Measured(case, "tiny", flops=1, stream_bytes=int(isinstance(case, wire.DecodeCase)))
            session.measure(families.work(one, found.get(getattr(case, "model", ""), {})))
        result = session.result()
    for row in result["rows"]:
        for label, entry in row["lanes"].items():
            assert entry.get("max_error", 1) < 1e-5, (row["case"]["name"], label, entry)
    assert result["rows"][1]["lanes"]["ours"]["of_read"] > 0


@needs_results
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_of_readme_is_that_of_the_results(load, theme):
    overview = load("overview")
    assert overview.place(theme).read_text(encoding="utf-8") == overview.svg(theme)
    assert f"docs/_static/peers-{theme}.svg" in (ROOT / "README.md").read_text(encoding="utf-8")


@needs_results
def test_figures_of_results(load):
    """A result without a figure is told apart; what is drawn has a curve or bars of this library."""
    pytest.importorskip("matplotlib")
    plots = load("plots")
    drawn = {path.name: plots.figure(path) for path in sorted((RESULTS / "zen5").glob("*-1thread.json"))}
    kinds = {name for name, figure in drawn.items() if figure is not None}
    assert kinds == {name for name in drawn if name.startswith(("attention-", "models-"))} and len(kinds) == 2
    assert len(drawn["attention-avx512-1thread.json"].axes) == 4
