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
from transformer_fast.files.gguf_architectures import POOLING
from transformer_fast.files.gguf_names import config_of, tensors_of
from transformer_fast.files.gguf_tokens import ends_of_turns, tokenizer_of
from transformer_fast.files.source import ModelSource, Tensor

# What sentence-transformers calls a model and the pooling after it; the vectors' length is not said by a file.
_MODULES = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
_MODULES += [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
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

    def __reduce__(self) -> tuple:
        return GgufSource, (self._file.path.absolute(),)

    def read(self, name: str) -> bytes | None:
        content = self._content(name)
        return None if content is None else json.dumps(content, ensure_ascii=False).encode()

    def tensors(self) -> Mapping[str, Tensor]:
        return self._tensors

    @property
    def weights(self) -> Path:
        return self._file.path

    def place(self, name: str) -> Path:
        return self._file.path / name

    def part(self, name: Any, told_by: str) -> ModelSource:
        return _Pooling(self) if name == "1_Pooling" and self.pooling else super().part(name, told_by)

    @property
    def pooling(self) -> str | None:
        """How the vectors of tokens become one vector, as sentence-transformers calls it; None: it is not said."""
        architecture = self._file.metadata.get("general.architecture")
        return POOLING.get(self._file.metadata.get(f"{architecture}.pooling_type"))

    @cached_property
    def _config(self) -> dict[str, Any]:
        return config_of(self._file)

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        return tensors_of(self._file, self._config)

    @cached_property
    def _tokenizer(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        return tokenizer_of(self._file)

    def _generation(self) -> dict[str, Any] | None:
        ends = [number for key in _ENDS if isinstance(number := self._file.metadata.get(key), int)]
        ends = list(dict.fromkeys([*ends, *ends_of_turns(self._file)]))
        if not ends:
            return None
        first = self._config["bos_token_id"]
        return {"eos_token_id": ends} | ({} if first is None else {"bos_token_id": first})

    def _content(self, name: str) -> Any | None:
        """The content of a file: only what is asked for is made."""
        match name:
            case "config.json":
                return self._config
            case "generation_config.json":
                return self._generation()
            case "modules.json":
                return _MODULES if self.pooling else None
            case "tokenizer.json":
                return self._tokenizer and self._tokenizer[0]
            case "tokenizer_config.json":
                return self._tokenizer and self._tokenizer[1]
        return None


class _Pooling(ModelSource):
    """The settings of the pooling, which sentence-transformers has in a folder of their own."""

    def __init__(self, model: GgufSource) -> None:
        self._model = model

    def __str__(self) -> str:
        return str(self._model)

    def read(self, name: str) -> bytes | None:
        return json.dumps({"pooling_mode": self._model.pooling}).encode() if name == "config.json" else None

    def tensors(self) -> Mapping[str, Tensor]:
        return {}

    @property
    def weights(self) -> Path:
        return self._model.weights

    def place(self, name: str) -> Path:
        return self._model.place(f"1_Pooling/{name}")
