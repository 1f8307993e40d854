"""The settings of sentence-transformers' folders: modules.json, and config_sentence_transformers.json.

`SentenceEncoder` and its relatives call `read_settings`, which says which modules there are, in which order; what a
module's own files say is read where it is made (`sentence_inputs`, `sentence_pooling`, `sentence_modules`), and so are
routes in `sentence_routes`. A field of config_sentence_transformers.json is a line in `read_settings`.

Source: sentence-transformers 6, base/model.py and sentence_transformer/model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import typed
from transformer_fast.util import SIMILARITIES

# Opens a module's own files. Modules without any, such as Normalize, may have no folder: a hub's snapshot has none.
Part = Callable[[], ModelSource]

CONFIG = "config_sentence_transformers.json"
_FIELDS = {"__version__", "default_prompt_name", "model_type", "prompts", "similarity_fn_name", "truncate_dim"}
_SINGLE_VECTOR: Mapping[str, str] = {name: name for name in SIMILARITIES}
_MODULE_FIELDS = {"idx", "kwargs", "name", "path", "type"}


@dataclass(frozen=True)
class ModuleFiles:
    """One module of a folder: its class ("Transformer", "Pooling", ...), and its own files.

    place: the path of them, the same for modules that routes share.
    """

    kind: str
    part: Part
    place: str


@dataclass
class SentenceSettings:
    """What a folder says of the whole.

    modules: None where there is no modules.json.
    model_type: that of the file; of older ones that name none, "SentenceTransformer".
    further: what only one model_type has, name -> value.
    """

    model_type: str = "SentenceTransformer"
    modules: tuple[ModuleFiles, ...] | None = None
    prompts: dict[str, str] = field(default_factory=lambda: {"query": "", "document": ""})
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None
    further: Mapping[str, Any] = field(default_factory=dict)


def read_settings(
    source: ModelSource,
    model_type: str | tuple[str, ...] = "SentenceTransformer",
    further: Collection[str] = (),
    similarities: Mapping[str, str] = _SINGLE_VECTOR,
) -> SentenceSettings:
    """The settings of a model of that type, or of one of several; further: names of fields that only these types have.

    similarities: similarity_fn_name -> the measure that it means; the first is that of files without the field.

    Raises:
        CheckpointError: a file is malformed or asks for what is not supported.
    """
    config, place = source.object(CONFIG, required=False), source.place(CONFIG)
    check_fields(place, config, _FIELDS.union(further))
    known = (model_type,) if isinstance(model_type, str) else model_type
    found = typed(place, config, "model_type", str, known[-1])
    if found not in known:
        raise CheckpointError(f"{place}: model_type is {found!r}; supported here: {', '.join(map(repr, known))}")
    settings = SentenceSettings(
        found, _modules(source), further={name: config[name] for name in further if name in config}
    )
    prompts = typed(place, config, "prompts", dict, {})
    settings.prompts |= {name: "" if prompt is None else prompt for name, prompt in prompts.items()}
    if not all(isinstance(prompt, str) and _is_utf8(prompt) for prompt in settings.prompts.values()):
        raise CheckpointError(f"{place}: prompts holds something else than strings and null")
    settings.default_prompt_name = typed(place, config, "default_prompt_name", str, None)
    if settings.default_prompt_name is not None and settings.default_prompt_name not in settings.prompts:
        raise CheckpointError(
            f"{place}: default_prompt_name {settings.default_prompt_name!r} is not one of the prompts"
        )
    name = typed(place, config, "similarity_fn_name", str, next(iter(similarities)))
    if name not in similarities:
        raise CheckpointError(f"{place}: similarity_fn_name is {name!r}; supported: {', '.join(similarities)}")
    settings.similarity = similarities[name]
    settings.truncate_dim = typed(place, config, "truncate_dim", int, None)
    return settings


def transformer_source(source: ModelSource) -> ModelSource:
    """The source of the model itself, which may stand in a folder of its own.

    Raises:
        CheckpointError: there is none, or there are several, one for each route.
    """
    modules = _modules(source)
    if modules is None:
        return source
    if not modules or modules[0].kind != "Transformer":
        raise CheckpointError(
            f"{source.place('modules.json')}: the first module is {modules[0].kind if modules else 'none'}; "
            "needed: Transformer"
        )
    return modules[0].part()


def chosen_prompt(prompts: Mapping[str, str], default: str | None, name: str | None, prompt: str | None) -> str:
    """What is put before each text: the prompt that a caller gives, else that of the name, else of the default's.

    Raises:
        ValueError: there is no prompt of that name.
        TypeError: the prompt is no string.
    """
    if prompt is not None:
        return checked_prompt("prompt", prompt)
    name = default if name is None else name
    if name is None:
        return ""
    if name not in prompts:
        raise ValueError(f"prompt_name is {name!r}; this model has: {', '.join(map(repr, prompts))}")
    return prompts[name]


def checked_prompt(name: str, prompt: Any) -> str:
    """
    Raises:
        TypeError: it is no string.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"{name} is a {type(prompt).__name__}; needed: a string")
    return prompt


def check_fields(place: Any, config: Mapping[str, Any], known: Collection[str]) -> None:
    """
    Raises:
        CheckpointError: the config has a field that is not known.
    """
    unknown = config.keys() - set(known)
    if unknown:
        raise CheckpointError(f"{place}: holds {', '.join(sorted(unknown))}; supported: {', '.join(sorted(known))}")


def kind_of(class_path: str) -> str:
    """sentence_transformers.models.Pooling -> Pooling."""
    return class_path.rpartition(".")[2]


def _modules(source: ModelSource) -> tuple[ModuleFiles, ...] | None:
    modules, place = source.json("modules.json"), source.place("modules.json")
    if modules is None:
        return None
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules
    ):
        raise CheckpointError(f"{place}: needed: a list of objects with type and path")
    for module in modules:
        check_fields(place, module, _MODULE_FIELDS)
        if module.get("kwargs") not in (None, [], ["task"]):  # the word of encode() that chooses a module's adapter
            raise CheckpointError(f"{place}: kwargs of {module['type']} is {module['kwargs']!r}; supported: ['task']")
    return tuple(
        ModuleFiles(
            kind_of(module["type"]), partial(source.part, module.get("path"), "modules.json"), str(module.get("path"))
        )
        for module in modules
    )


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
