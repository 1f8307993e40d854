"""The command: what it prints where, its exit codes, and what it leaves behind when it is interrupted.

Most tests put a small stand-in for the encoder behind `commands.common.encoder`; those at the end run the command as a
user does, with the real weights where they are installed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from subprocesses import PACKAGE_PARENT, environment, run_python

import transformer_fast
from transformer_fast import bench, util, visualize, weights
from transformer_fast.commands import common, embed


def assert_one_line(err: str, *parts: str):
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert err.startswith("transformer-fast")
    for part in parts:
        assert part in err


# info ----------------------------------------------------------------------------------------------------------------


def test_info(run):
    code, out, err = run("info")
    assert (code, err) == (0, "")
    for name in ("version", "isa", "num_threads", "openmp", "cpu", "numpy"):
        assert any(line.startswith(name) for line in out.splitlines())


def test_info_json(run):
    code, out, _ = run("info", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["isa"] in facts["available_isas"]
    assert facts["version"] == transformer_fast.__version__


def test_help_and_version(run):
    code, out, err = run("--help")
    assert code == 0 and err == ""
    for command in ("info", "embed", "search", "rerank", "similarity", "classify", "tag", "attend", "compare", "bench"):
        assert command in out
        assert run(command, "--help")[0] == 0
    assert run("--version")[:2] == (0, f"transformer-fast {transformer_fast.__version__}\n")


# embed ---------------------------------------------------------------------------------------------------------------


def test_embed_texts_to_stdout(run, encoder):
    code, out, _ = run("embed", "banana", "", 'quote " and é')
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["text"] for row in rows] == ["banana", "", 'quote " and é']
    np.testing.assert_array_equal([row["embedding"] for row in rows], encoder.encode(["banana", "", 'quote " and é']))


def test_embed_options_reach_the_encoder(run, encoder):
    assert run("embed", "a", "--batch-size", "7", "--normalize")[0] == 0
    assert encoder.calls[0] == {"batch_size": 7, "normalize_embeddings": True}


def test_jsonl_gives_every_bit_back(tmp_path):
    values = np.random.default_rng(0).standard_normal((1, 1000)).astype(np.float32) * np.float32(1e-3)
    file = tmp_path / "a.jsonl"
    embed._write_embeddings(file, ["t"], values)
    row = json.loads(file.read_text())["embedding"]
    np.testing.assert_array_equal(np.array(row, np.float32), values[0])
    assert len(file.read_text()) < 16 * values.size


def test_embed_sides_and_precision(run, encoder):
    assert run("embed", "a", "--query", "--prompt-name", "p", "--precision", "binary", "--truncate-dim", "3")[0] == 0
    assert encoder.calls[-1] == {
        "batch_size": 32,
        "task": "query",
        "prompt_name": "p",
        "precision": "binary",
        "truncate_dim": 3,
    }
    for options, given in (
        (["--document"], {"task": "document"}),
        (["--task", "t", "--prompt", "p: "], {"task": "t", "prompt": "p: "}),
        ([], {}),
    ):
        assert run("embed", "a", *options)[0] == 0
        assert encoder.calls[-1] == {"batch_size": 32, **given}
    for options in (["--query", "--document"], ["--query", "--task", "t"], ["--prompt", "a", "--prompt-name", "b"]):
        assert run("embed", "a", *options)[0] == 2
    assert embed.PRECISIONS == util.PRECISIONS


def test_embed_file_to_npy(run, encoder, tmp_path):
    lines = ["first", "", "a line\u2028with a separator", "last, without a newline"]
    source, target = tmp_path / "lines.txt", tmp_path / "out.npy"
    source.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).replace("first", "first\r").encode())
    code, out, err = run("embed", "--file", str(source), "-o", str(target))
    assert (code, out) == (0, "")
    assert_one_line(err, "wrote 4 embeddings of 26 features")
    np.testing.assert_array_equal(np.load(target), encoder.encode(lines))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.txt", "out.npy"]


def test_embed_json_says_what_was_written(run, encoder, tmp_path):
    code, out, _ = run("embed", "abc", "-o", str(tmp_path / "o.jsonl"), "--json")
    said = json.loads(out)
    assert code == 0
    assert (said["texts"], said["features"], said["output"]) == (1, 26, str(tmp_path / "o.jsonl"))
    assert json.loads((tmp_path / "o.jsonl").read_text())["text"] == "abc"


def test_written_file_has_the_usual_mode_and_follows_links(run, encoder, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.npy"
    link.symlink_to(tmp_path / "real" / "out.npy")
    before = os.umask(0o027)
    try:
        assert run("embed", "abc", "-o", str(link))[0] == 0
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert (tmp_path / "real" / "out.npy").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["embed", "a", "--file", "b"], 2, ["both as arguments and by --file"]),
        (["embed", "--file", "missing.txt"], 1, ["missing.txt", "No such file"]),
        (["embed", "--file", "."], 1, [".", "directory"]),
        (["embed", "--file", "empty.txt"], 1, ["empty.txt", "no line"]),
        (["embed", "--file", "latin.txt"], 1, ["latin.txt", "UTF-8", "byte 3"]),
        (["embed", "a", "-o", "out.csv"], 2, ["out.csv", ".npy or .jsonl"]),
        (["embed", "a", "-o", "missing/out.npy"], 2, ["no folder", "missing"]),
        (["embed", "a", "-o", "folder.npy"], 2, ["is a folder"]),
        (["embed", "a", "--batch-size", "0"], 2, ["--batch-size", "'0'", ">= 1"]),
        (["embed", "a", "--batch-size", "many"], 2, ["'many'"]),
        (["embed", "a", "--threads", "-3"], 2, ["--threads"]),
        (["search", " "], 2, ["QUERY is empty"]),
        (["search", "a", "--in", "missing"], 1, ["no such file or folder: missing"]),
        (["search", "a", "--in", "empty.txt"], 1, ["empty.txt", "no text"]),
        (["search", "a", "--top", "0"], 2, ["--top"]),
        (["search"], 2, ["QUERY"]),
        (["dance"], 2, ["dance"]),
        ([], 2, ["COMMAND"]),
        (["bench", "--fast"], 2, ["--fast"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) and " " not in value[0] else None,
)
def test_bad_arguments(arguments, code, parts, run, encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    Path("folder.npy").mkdir()
    before = sorted(tmp_path.iterdir())
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert_one_line(err, *parts)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission(run, encoder, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = run("embed", "a", "-o", str(tmp_path / "out.npy"))
    assert code == 2
    assert_one_line(err, "cannot be written")


@pytest.mark.parametrize("name", ["out.npy", "out.jsonl"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), SystemExit(143)])
def test_interrupted_write_leaves_nothing(name, error, run, encoder, tmp_path, monkeypatch):
    target = tmp_path / name
    target.write_text("as it was")

    def half(file, *rest):
        file.write(b"half" if name.endswith("npy") else "half")
        raise error

    monkeypatch.setattr(np, "save", half)
    monkeypatch.setattr(embed, "_write_jsonl", half)
    code, _, err = run("embed", "a", "-o", str(target))
    assert code == {KeyboardInterrupt: 130}.get(error, 143 if isinstance(error, SystemExit) else 1)
    assert target.read_text() == "as it was"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "Traceback" not in err


def test_missing_package_names_the_extra(run, monkeypatch):
    def fail(options):
        raise ModuleNotFoundError("No module named 'tokenizers'", name="tokenizers")

    monkeypatch.setattr(common, "encoder", fail)
    code, _, err = run("embed", "a")
    assert code == 1
    assert_one_line(err, "tokenizers", "pip install 'transformer-fast[models]'")


def test_faults_of_the_program_keep_their_traceback(run, monkeypatch):
    def fail(options):
        raise AssertionError("a fault")

    monkeypatch.setattr(common, "encoder", fail)
    with pytest.raises(AssertionError, match="a fault"):
        run("embed", "a")


# The stand-in encoder in a process of its own: `cli.main` with the arguments, after saying on stderr that it has begun.
CHILD = """
import sys, time
import numpy as np
from transformer_fast import cli
from transformer_fast.commands import common

class Encoder:
    def encode(self, sentences, **options):
        print("begun", file=sys.stderr, flush=True)
        time.sleep(float(sys.argv[1]))
        return np.zeros((len(sentences), 20000), np.float32)

common.encoder = lambda options: Encoder()
raise SystemExit(cli.main(sys.argv[2:]))
"""


def start_child(*arguments: str) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        env=environment(),
        cwd=PACKAGE_PARENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr.readline() == "begun\n"
    return child


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_signals_stop_without_a_traceback(number, code, tmp_path):
    child = start_child("60", "embed", "a", "-o", str(tmp_path / "out.npy"))
    time.sleep(0.2)
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == code
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_reader_that_goes_away():
    child = start_child("0", "embed", *map(str, range(50)))
    child.stdout.read(10)
    child.stdout.close()
    err = child.stderr.read()
    assert child.wait(timeout=30) == 141
    assert err == ""


def test_terminal_without_unicode():
    done = run_python("0", "search", "ä", "--in", "missing-ä", code=CHILD, check=False, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# attend --------------------------------------------------------------------------------------------------------------


class FakeAttention:
    """An encoder of two layers with three heads over the words of a text; head h of layer n looks h + n words ahead."""

    def __init__(self):
        self.tokenizer = self.model = self

    def encode(self, text, pair=None):
        assert pair is None
        words = text.split()
        starts = np.cumsum([0] + [len(word) + 1 for word in words])
        offsets = [(0, 0), *((int(start), int(start) + len(word)) for start, word in zip(starts, words, strict=False))]
        return SimpleNamespace(
            ids=[0] * len(offsets),
            tokens=["[CLS]", *("##?" for _ in words)],
            offsets=offsets,
            sequence_ids=[None, *(0 for _ in words)],
            overflowing=[],
        )

    def __call__(self, input_ids, output_attentions):
        return self.forward(input_ids, output_attentions)

    def forward(self, input_ids, output_attentions):
        assert output_attentions and input_ids.shape[0] == 1
        L = input_ids.shape[1]
        layers = [[0.75 * np.roll(np.eye(L), h + n, axis=1) + 0.25 / L for h in range(3)] for n in range(2)]
        return SimpleNamespace(attentions=tuple(np.array([layer], np.float32) for layer in layers))


@pytest.fixture
def attention(monkeypatch):
    fake = FakeAttention()
    monkeypatch.setattr(common, "encoder", lambda options: fake)
    return fake


@pytest.fixture
def drawn(monkeypatch):
    """The figures that the command saves."""
    figures = []
    save = visualize.save
    monkeypatch.setattr(
        visualize, "save", lambda figure, *rest, **more: (figures.append(figure), save(figure, *rest, **more))
    )
    return figures


def test_attend_prints_the_strongest_links(run, attention):
    code, out, err = run("attend", "a bc def", "--layer", "0", "--head", "1", "--top", "3")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "layer 0, head 1: the strongest links",
        "0.812    0 [CLS] ->   1 a",
        "0.812    1 a     ->   2 bc",
        "0.812    2 bc    ->   3 def",
    ]


def test_attend_json(run, attention):
    code, out, _ = run("attend", "a bc def", "--json", "--top", "99")
    found = json.loads(out)
    assert code == 0
    assert found["tokens"] == ["[CLS]", "a", "bc", "def"] and (found["layer"], found["head"]) == (1, None)
    weights = [link["weight"] for link in found["links"]]
    assert len(weights) == 16 and weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(4)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_attend_draws_one_head(suffix, run, attention, drawn, tmp_path):
    target = tmp_path / f"out.{suffix}"
    code, out, err = run("attend", "a $b c", "--layer", "1", "--head", "2", "-o", str(target))
    assert (code, out) == (0, "")
    assert_one_line(err, f"wrote {target}")
    assert target.stat().st_size > 1000
    axes = drawn[0].axes[0]
    weights = attention(np.zeros((1, 4)), True).attentions[1][0, 2]
    np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["[CLS]", "a", "$b", "c"]


@pytest.mark.parametrize(
    ("arguments", "artists"),
    [
        (["--kind", "grid"], (6, 0)),
        (["--kind", "grid", "--layer", "0"], (3, 0)),
        (["--kind", "lines"], (0, 3)),
        (["--kind", "lines", "--head", "2"], (0, 1)),
        ([], (1, 0)),
    ],
    ids=lambda value: (" ".join(value) or "heatmap") if isinstance(value, list) else "",
)
def test_attend_kinds(arguments, artists, run, attention, drawn, tmp_path):
    assert run("attend", "a b c", "-o", str(tmp_path / "out.png"), *arguments)[0] == 0
    axes = drawn[0].axes[0]
    assert (len(axes.images), len(axes.collections)) == artists


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([" "], ["TEXT is empty"]),
        (["caf\udce9"], ["TEXT is no text in UTF-8"]),
        (["a", "--layer", "2"], ["--layer 2", "0 to 1"]),
        (["a", "--head", "3"], ["--head 3", "0 to 2"]),
        (["a", "--layer", "-1"], ["--layer"]),
        (["a", "--head", "x"], ["'x'", ">= 0"]),
        (["a", "--kind", "grid"], ["--kind grid", "-o"]),
        (["a", "--kind", "grid", "--head", "1", "-o", "out.png"], ["--head"]),
        (["a", "--kind", "cube", "-o", "out.png"], ["cube"]),
        (["a", "-o", "out.jpg"], ["out.jpg", ".html or .png or .svg"]),
        (["a", "--kind", "grid", "-o", "out.html"], ["--kind grid", "leave it out"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else None,
)
def test_attend_bad_arguments(arguments, parts, run, attention, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("attend", *arguments)
    assert (code, out) == (2, "")
    assert_one_line(err, *parts)
    assert list(tmp_path.iterdir()) == []


def test_attend_writes_a_page_without_matplotlib(run, attention, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    target = tmp_path / "out.html"
    code, out, err = run(
        "attend", "a </script> c", "--layer", "1", "--head", "2", "--kind", "heatmap", "-o", str(target)
    )
    assert (code, out) == (0, "")
    assert_one_line(err, f"wrote {target} ({target.stat().st_size / 1000:,.0f} kB)")
    (content,) = re.findall(r'<script type="application/json" id="attention">(.*?)</script>', target.read_text("utf-8"))
    data = json.loads(content)
    assert (data["view"], data["layer"], data["head"]) == ("heatmap", 1, 2)
    assert data["maps"][0]["queries"] == ["[CLS]", "a", "</script>", "c"]


def test_attend_without_matplotlib_names_the_extra(run, attention, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("attend", "a", "-o", str(tmp_path / "out.png"))
    assert code == 1
    assert_one_line(err, "pip install 'transformer-fast[plot]'")
    assert list(tmp_path.iterdir()) == []


# bench ---------------------------------------------------------------------------------------------------------------


def test_bench(run, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", (bench.Linear(8, 16, 24),))
    code, out, err = run("bench", "--quick", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["shape"] == "M=8 K=16 N=24"
    assert "measuring linear" in err
    code, out, _ = run("bench", "--quick")
    assert code == 0 and "GFLOP/s" in out


# as a user runs it ---------------------------------------------------------------------------------------------------


def needs_weights():
    try:
        weights.find_minilm()
    except ValueError as error:
        pytest.skip(str(error))


def test_help_imports_neither_models_nor_tokenizers():
    code = """
        import sys
        from transformer_fast import cli
        try:
            cli.main(["--help"])
        except SystemExit:
            pass
        heavy = ("tokenizers", "safetensors", "matplotlib", "transformer_fast.pipelines")
        print([name for name in heavy if name in sys.modules])
    """
    assert run_python(code=code).stdout.splitlines()[-1] == "[]"


def test_module_runs():
    done = run_python("-m", "transformer_fast", "info", "--json")
    assert json.loads(done.stdout)["version"] == transformer_fast.__version__


def test_embed_lines_of_stdin():
    needs_weights()
    done = subprocess.run(
        [sys.executable, "-m", "transformer_fast", "embed", "--normalize"],
        input="a cat\nein Käse\n",
        env=environment(LC_ALL="C"),
        cwd=PACKAGE_PARENT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["a cat", "ein Käse"]
    assert np.linalg.norm(rows[0]["embedding"]) == pytest.approx(1, abs=1e-5)


def test_attend_with_real_weights(tmp_path):
    needs_weights()
    target = tmp_path / "attention.svg"
    text = "The robot obeys because it must"
    done = run_python(
        "-m", "transformer_fast", "attend", text, "--layer", "3", "--head", "5", "-o", str(target), "--json"
    )
    found = json.loads(done.stdout)
    assert found["tokens"] == ["[CLS]", "The", "robot", "obey", "s", *text.split()[3:], "[SEP]"]
    assert 0 < found["links"][0]["weight"] <= 1
    assert ">because<" in target.read_text()


def test_model_that_is_no_model(tmp_path):
    done = run_python("-m", "transformer_fast", "embed", "a", "--model", str(tmp_path), check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert_one_line(done.stderr)
