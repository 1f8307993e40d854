"""What the folder of a multi-vector encoder says of the whole: of sentence-transformers, PyLate or Stanford's ColBERT.

`MultiVectorEncoder` calls `read_folder`; `multi_vector_routes` makes the modules. All three kinds end up as the same
modules and settings; a further kind is a function here that returns a `MultiVectorFolder`.

- sentence-transformers: modules.json names all modules; the Transformer's file has lengths and query expansion.
- PyLate, and sentence-transformers' own encoders of one vector: modules.json names Transformer and Dense. Lengths,
  query expansion and skiplist are in config_sentence_transformers.json; a mask and a Normalize follow.
- Stanford: config.json names the architecture HF_ColBERT, artifact.metadata the settings; the projection is a tensor
  "linear.weight" beside the encoder's.

Source: sentence-transformers 6, multi_vector_encoder/model.py (how it reads all three).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import checked_json, checked_object
from transformer_fast.files.source import ModelSource, Tensor
from transformer_fast.files.tokenizer import typed
from transformer_fast.pipelines.sentence_settings import (
    CONFIG,
    ModuleFiles,
    SentenceSettings,
    read_settings,
)
from transformer_fast.util import MULTI_VECTOR_SIMILARITIES, SIMILARITIES

_STANFORD = "HF_ColBERT"
_METADATA = "artifact.metadata"
PROJECTION = "linear.weight"
_PYLATE_LENGTH = 32  # of a query, where a file does not say

_LENGTHS = ("query_length", "document_length", "query_expansion")
_PREFIXES = {"query_prefix": "query", "document_prefix": "document"}
_PYLATE = {
    *_LENGTHS,
    *_PREFIXES,
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "skiplist_words",
}
# similarity_fn_name -> the measure. Those of single vectors are what older releases wrote by default.
_SIMILARITIES = {name: name for name in MULTI_VECTOR_SIMILARITIES} | dict.fromkeys(("MaxSim", *SIMILARITIES), "maxsim")
# What artifact.metadata says of the model; the rest of it describes a training run or an index.
_METADATA_READ = {
    "query_token_id": str,
    "doc_token_id": str,
    "query_maxlen": int,
    "doc_maxlen": int,
    "attend_to_mask_tokens": bool,
    "mask_punctuation": bool,
}


@dataclass
class MultiVectorFolder:
    """The settings and modules of a folder.

    lengths: query_length, document_length, query_expansion, which the Transformer's own file overrides.
    prefixes: texts of markers that are to be one token each.
    adapted: the modules are those of an encoder of one vector or of PyLate: what makes one vector is left out, and a
        mask with `skiplist` and a Normalize follow. projection: the source of Stanford's, or None.
    """

    settings: SentenceSettings
    lengths: dict[str, Any] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    adapted: bool = False
    skiplist: tuple[str, ...] = ()
    projection: ModelSource | None = None


def read_folder(source: ModelSource) -> MultiVectorFolder:
    """The settings of a folder of one of the three kinds.

    Raises:
        CheckpointError: a file is malformed or asks for what is not supported, or it is no folder of such an encoder.
    """
    if source.json("modules.json") is None:
        return _stanford(source)
    types = ("MultiVectorEncoder", "ColBERT", "SentenceTransformer")
    settings = read_settings(source, types, _PYLATE, _SIMILARITIES)
    place, further = source.place(CONFIG), settings.further
    if settings.truncate_dim is not None:
        raise CheckpointError(f"{place}: truncate_dim is {settings.truncate_dim}; supported: null")
    adapted = settings.model_type != "MultiVectorEncoder"
    prefixes = {role: typed(place, further, name, str, "") for name, role in _PREFIXES.items() if name in further}
    for role, prefix in prefixes.items():
        settings.prompts[role] = prefix + settings.prompts[role].removeprefix(prefix)
    skiplist: tuple[str, ...] = ()
    if adapted:
        words = typed(place, further, "skiplist_words", list)
        if words is None and (prefixes or settings.model_type == "ColBERT"):
            words = list(string.punctuation)
        if not all(isinstance(word, str) for word in words or ()):
            raise CheckpointError(f"{place}: skiplist_words is {words!r}; needed: a list of strings")
        skiplist = tuple(words or ())
    return MultiVectorFolder(settings, _lengths(place, further), tuple(prefixes.values()), adapted, skiplist)


def _lengths(place: Any, further: Mapping[str, Any]) -> dict[str, Any]:
    """What PyLate's fields say of lengths, as the Transformer's file would."""
    found = {name: further[name] for name in _LENGTHS if further.get(name) is not None}
    if "query_expansion" in further:  # null turns it off
        return found | {"query_expansion": further["query_expansion"]}
    if not further:
        return found
    query_length = found.pop("query_length", None) or _PYLATE_LENGTH
    if typed(place, further, "do_query_expansion", bool, True):
        names = ("attend_to_expansion_tokens", "attend_to_mask_tokens")
        attend = next((typed(place, further, name, bool, False) for name in names if name in further), False)
        return found | {"query_expansion": {"strategy": "fixed", "attend": attend, "length": query_length}}
    limit = {"query_length": query_length} if further.get("query_length") else {}
    return found | limit | {"query_expansion": None}


def _stanford(source: ModelSource) -> MultiVectorFolder:
    config, place = source.object("config.json"), source.place("config.json")
    if _STANFORD not in (config.get("architectures") or []):
        raise CheckpointError(
            f"{source}: has no modules.json, and {place.name} does not name the architecture {_STANFORD}; needed: a "
            "folder of sentence-transformers, PyLate or ColBERT: this one has no projection of tokens"
        )
    data, place = source.read(_METADATA), source.place(_METADATA)
    metadata = {} if data is None else checked_object(place, checked_json(place, data))
    said = {name: typed(place, metadata, name, kind) for name, kind in _METADATA_READ.items()}
    settings = SentenceSettings("MultiVectorEncoder", similarity="maxsim")
    settings.modules = (ModuleFiles("Transformer", partial(WithoutTensors, source, (PROJECTION,)), ""),)
    prefixes = (f"{said['query_token_id'] or '[unused0]'} ", f"{said['doc_token_id'] or '[unused1]'} ")
    settings.prompts |= dict(zip(("query", "document"), prefixes, strict=True))
    attend, length = bool(said["attend_to_mask_tokens"]), said["query_maxlen"] or _PYLATE_LENGTH
    lengths = {"query_expansion": {"strategy": "fixed", "attend": attend, "length": length}}
    if said["doc_maxlen"] is not None:
        lengths["document_length"] = said["doc_maxlen"]
    skiplist = tuple(string.punctuation) if metadata.get("mask_punctuation", True) else ()  # null is false
    return MultiVectorFolder(settings, lengths, prefixes, True, skiplist, source)


class WithoutTensors(ModelSource):
    """A source whose tensors of these names are somebody else's."""

    def __init__(self, source: ModelSource, names: tuple[str, ...]) -> None:
        self._source, self._names = source, names

    def __str__(self) -> str:
        return str(self._source)

    def read(self, name: str) -> bytes | None:
        return self._source.read(name)

    def names(self, folder: str) -> list[str]:
        return self._source.names(folder)

    def json(self, name: str) -> Any | None:
        return self._source.json(name)

    def tensors(self) -> Mapping[str, Tensor]:
        return {name: tensor for name, tensor in self._source.tensors().items() if name not in self._names}

    @property
    def weights(self) -> Any:
        return self._source.weights

    def place(self, name: str) -> Any:
        return self._source.place(name)
