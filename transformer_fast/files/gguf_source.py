"""`GgufSource`: one GGUF file as a `ModelSource`: the settings, tokenizer and tensors that a folder would have.

`folder.open_source` makes one of a path that ends in .gguf. Families and tokenizers know nothing of it: they read
config.json, tokenizer.json and tensors by the names that folders have, which `gguf_names` and `gguf_tokens` make of the
file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf import read_gguf
from transformer_fast.files.gguf_names import config_of, tensors_of
from transformer_fast.files.gguf_tokens import tokenizer_of
from transformer_fast.files.source import ModelSource, Tensor

_ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


class GgufSource(ModelSource):
    """A file; its header is read, and its tensors stay where they are until they are used.

    Raises:
        CheckpointError: it is no GGUF file, or one of several that belong together.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = read_gguf(path)
        count = self._file.metadata.get("split.count", 1)
        if count not in (0, 1):
            raise CheckpointError(
                f"{path}: is one of {count} files; needed: one file (llama.cpp's gguf-split --merge makes it)"
            )

    def __str__(self) -> str:
        return str(self._file.path)

    def read(self, name: str) -> bytes | None:
        content = self._files.get(name)
        return None if content is None else json.dumps(content, ensure_ascii=False).encode()

    def tensors(self) -> Mapping[str, Tensor]:
        return self._tensors

    @property
    def weights(self) -> Path:
        return self._file.path

    def place(self, name: str) -> Path:
        return self._file.path / name

    @cached_property
    def _config(self) -> dict[str, Any]:
        return config_of(self._file)

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        return tensors_of(self._file, self._config)

    @cached_property
    def _files(self) -> Mapping[str, Any]:
        files: dict[str, Any] = {"config.json": self._config}
        tokenizer = tokenizer_of(self._file)
        if tokenizer is not None:
            files["tokenizer.json"], files["tokenizer_config.json"] = tokenizer
        ends = [number for key in _ENDS if isinstance(number := self._file.metadata.get(key), int)]
        if ends:
            files["generation_config.json"] = {"eos_token_id": list(dict.fromkeys(ends))}
            if "bos_token_id" in self._config:
                files["generation_config.json"]["bos_token_id"] = self._config["bos_token_id"]
        return files
