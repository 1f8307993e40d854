"""Every script in examples/ runs as it is, and says what it promises. A new one gets a line in `EXPECTED`."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from subprocesses import ROOT, environment

from transformer_fast import weights

EXAMPLES = ROOT / "examples"

# Needs the real weights; others are marks of pytest.
WEIGHTS = "weights"

# Script -> a pattern that one of its lines matches, and what it needs.
EXPECTED = {
    "attention_against_cnn": (r"largest difference: (0\.0e\+00|\d\.\de-0[678])$", ()),
    "attention_against_rnn": (r" +4096( +\d+\.\d+){3}$", (pytest.mark.slow,)),
    "head_heatmap": (r"layer \d, head \d+ gives [5-9]\d% of its weight to the next word$", (WEIGHTS,)),
    "long_document": (r"largest difference of token 10,000 from NumPy: \d\.\de-0[678]$", ()),
    "masks": (r"a query that may attend nobody gets zeros, not NaN: 0\.0$", ()),
    "multi_head": (r"largest difference from nn\.MultiheadAttention: (0\.0e\+00|\d\.\de-0[678])$", ()),
    "search": (r"how do I unpack an archive\? +0\.\d\d  Open a gzip", (WEIGHTS,)),
    "similarity": (r"nearest to 'A man is eating food\.': 'Someone has a meal\.'$", (WEIGHTS,)),
    "translation": (r"right: 2[45]\d of 256; tokens as torch's: True$", (pytest.mark.oracle, pytest.mark.slow)),
    "truncated_attention": (r"4 times the frames take \d+\.\d times as long$", ()),
    "what_q_k_v_do": (r'"it" looks at "robot"$', ()),
}


def cases():
    for name, (pattern, marks) in EXPECTED.items():
        yield pytest.param(name, pattern, WEIGHTS in marks, marks=[m for m in marks if m != WEIGHTS], id=name)


def run(name: str, *arguments: str, cwd) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env=environment(OMP_NUM_THREADS="1"),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def require_weights() -> None:
    try:
        weights.find_minilm()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[m for m in marks if m != WEIGHTS]) for name, (_, marks) in EXPECTED.items()]
)
def test_example(name, tmp_path):
    pattern, marks = EXPECTED[name]
    if WEIGHTS in marks:
        require_weights()
    out = run(name, cwd=tmp_path)
    assert any(re.match(pattern, line) for line in out.splitlines()), out


def test_heatmaps_are_written_where_they_are_wanted(tmp_path):
    require_weights()
    (tmp_path / "pictures").mkdir()
    run("head_heatmap", "pictures", cwd=tmp_path)
    written = {path.name: path.read_bytes()[:4] for path in (tmp_path / "pictures").iterdir()}
    assert written == dict.fromkeys(("heatmap.png", "lines.png", "grid.png"), b"\x89PNG")


def test_every_example_is_tested_and_listed():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == set(EXPECTED)
    listed = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \|", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(scripts)
