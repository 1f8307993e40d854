"""The modules of a sentence encoder in their order: one route from texts to vectors, or several and a router.

    texts -> input (sentence_inputs) -> pooling (sentence_pooling) -> modules (sentence_modules) -> vectors

`SentenceEncoder` calls `read_routes`, and `Routes.route` for each call. Modules that come before or after a Router
belong to each of its routes. A further kind of module goes into one of the three files above.

Source: sentence-transformers 6, base/model.py and base/modules/router.py.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import typed
from transformer_fast.models.common.compute_types import ComputeType, weight_format_of
from transformer_fast.pipelines.sentence_inputs import INPUTS, TextTokens
from transformer_fast.pipelines.sentence_modules import KINDS, SparseAutoEncoder, read_modules
from transformer_fast.pipelines.sentence_pooling import Pooling, read_word_weights
from transformer_fast.pipelines.sentence_settings import ModuleFiles, SentenceSettings, check_fields, kind_of

_ROUTERS = ("Router", "Asym")
_ROUTER_PARAMETERS = {"default_route", "allow_empty_key", "route_mappings"}


class Route:
    """Texts to vectors.

    Attributes:
        input: a `TransformerInput` or a `StaticEmbedding`.
        pooling: the `Pooling` of its rows.
        dimension: the length of the vectors.
    """

    def __init__(self, input: Any, pooling: Pooling, modules: Sequence[Any] = ()) -> None:
        self.input, self.pooling, self._modules = input, pooling, tuple(modules)
        self.dimension = modules[-1].dimension if modules else pooling.dimension(input)

    def with_input(self, input: Any) -> Route:
        """The same modules after another input."""
        route = copy.copy(self)
        route.input = input
        return route

    def tokens(self, texts: list[Any], prompt: str = "") -> list[TextTokens]:
        """The tokens of texts and pairs, with a prompt."""
        return self.input.tokens(texts, prompt)

    def prompt_length(self, prompt: str) -> int:
        """The number of tokens of a prompt that are not to be pooled."""
        return 0 if self.pooling.include_prompt or not prompt else self.input.prompt_length(prompt)

    def vectors(self, tokens: Sequence[TextTokens], skipped: int, k: int | None = None) -> Any:
        """The vectors (B, dimension) of texts, of whose tokens the first `skipped` are not pooled.

        An array, or a scipy.sparse.csr_array where the pooling gives one and no module follows. k: how many numbers a
        SparseAutoEncoder keeps, instead of its own k.
        """
        found = self.pooling(self.input, tokens, skipped)
        for module in self._modules:
            given = found if isinstance(found, np.ndarray) else found.toarray()
            found = module(given, k) if isinstance(module, SparseAutoEncoder) else module(given)
        return found

    @property
    def kept(self) -> int | None:
        """k of its SparseAutoEncoder; None without one."""
        return next((module.k for module in self._modules if isinstance(module, SparseAutoEncoder)), None)

    def token_rows(self, tokens: Sequence[TextTokens]) -> list[np.ndarray]:
        """The rows (L, h) of each text's tokens, before they are pooled."""
        rows, _ = self.pooling.rows(self.input, tokens)
        return np.split(rows, np.cumsum([len(one) for one in tokens])[:-1])


@dataclass(frozen=True)
class Routes:
    """The routes by name; of a model without a Router there is one, called "".

    A model with adapters has one for each of its tasks besides. default: the route where no task is named, or None.
    mappings: (task, modality) -> route, of a Router's config.
    """

    routes: Mapping[str, Route]
    default: str | None = ""
    mappings: Mapping[tuple[Any, Any], str] = field(default_factory=dict)

    def route(self, task: str | None) -> Route:
        """The route of a task, "query" or "document" for instance. A model without a Router has one for all.

        Raises:
            ValueError: there is no route for it.
        """
        if len(self.routes) == 1 and "" in self.routes:
            return self.routes[""]
        for key in ((task, "text"), (task, None), (None, "text"), (None, None)):
            if key in self.mappings:
                return self.routes[self.mappings[key]]
        for name in (task, "text"):
            if name in self.routes:
                return self.routes[name]
        if task is None and self.default is not None:
            return self.routes[self.default]
        raise ValueError(
            f"task is {task!r}; this model has the routes: {', '.join(map(repr, filter(None, self.routes)))}"
        )

    def first(self) -> Route:
        """The route that the model's own attributes are of."""
        return self.routes[self.default if self.default is not None else next(iter(self.routes))]

    def inputs(self) -> list[Any]:
        """The input modules, each once."""
        return list({id(route.input): route.input for route in self.routes.values()}.values())


def read_routes(
    source: ModelSource,
    settings: SentenceSettings,
    compute_type: ComputeType,
    ignore_fields: Collection[str],
    packed_cache: str | Path | None = None,
    maker: Callable[[ComputeType, Collection[str], Any], Any] | None = None,
) -> Routes:
    """The routes of a folder; without modules.json the mean of the model's tokens, or model2vec's own folder.

    maker: makes what makes a route of modules, `RouteMaker` by default.

    Raises:
        CheckpointError: a file is malformed or asks for what is not supported.
    """
    make = (maker or RouteMaker)(compute_type, ignore_fields, packed_cache)
    if settings.modules is None:
        return _routes_of_tasks(make.route(_without_modules(source), "", plain=True))
    place = source.place("modules.json")
    routers = [i for i, files in enumerate(settings.modules) if files.kind in _ROUTERS]
    if not routers:
        return _routes_of_tasks(make.route(settings.modules, f"{place}: the modules"))
    if len(routers) > 1:
        raise CheckpointError(f"{place}: has {len(routers)} Routers; supported: one")
    before, router, after = _parts(settings.modules, routers[0])
    structure, default, mappings = _read_router(router)
    routes = {
        name: make.route((*before, *own, *after), f"{place}: the modules of the route {name!r}")
        for name, own in structure.items()
    }
    return Routes(routes, default, mappings)


def _routes_of_tasks(route: Route) -> Routes:
    """A route alone or, of a model with adapters, with one for each task: the same modules after its adapter.

    The tasks "query" and "document", which encode_query and encode_document name, are those of retrieval.
    """
    tasks = getattr(route.input, "tasks", ())
    routes = {"": route} | {task: route.with_input(route.input.for_task(task)) for task in tasks}
    retrieval = {"query": "retrieval.query", "document": "retrieval.passage"}
    mappings = {(task, "text"): name for task, name in retrieval.items() if name in routes}
    return Routes(routes, "", mappings)


class RouteMaker:
    """Makes routes; an input that several of them share is made once."""

    def __init__(
        self, compute_type: ComputeType, ignore_fields: Collection[str], packed_cache: str | Path | None = None
    ) -> None:
        self.compute_type = compute_type
        self.options = compute_type, ignore_fields, packed_cache  # of what reads an input
        self._inputs: dict[str, Any] = {}

    def input(self, files: ModuleFiles, plain: bool = False) -> Any:
        """The input module of these files; plain: there is no modules.json."""
        if files.place not in self._inputs:
            self._inputs[files.place] = self.read_input(files, plain)
        return self._inputs[files.place]

    def read_input(self, files: ModuleFiles, plain: bool = False) -> Any:
        """As `input`, made anew."""
        options = {"plain": True} if plain and files.kind == "Transformer" else {}
        return INPUTS[files.kind](files.part(), *self.options, **options)

    def route(self, modules: Sequence[ModuleFiles], what: str, plain: bool = False) -> Route:
        """what: the modules, for error texts. plain: there is no Pooling, and the mean is taken."""
        kinds = [files.kind for files in modules]
        pooled = 0 if plain else pooled_at(kinds)
        if pooled is None:
            raise CheckpointError(
                f"{what} are {', '.join(kinds) or 'none'}; supported: Transformer, WordWeights, Pooling "
                f"(or StaticEmbedding) and, after them, {', '.join(KINDS)}"
            )
        first, *inner = modules[: pooled + 1]
        input = self.input(first, plain)
        pooling = _pooling_of(first.part()) if plain else Pooling()
        if inner:
            weights = _word_weights(inner[0], input) if len(inner) == 2 else None
            pooling = Pooling.read(inner[-1].part(), input.hidden_size, weights)
        return self.finished(input, pooling, modules[pooled + 1 :])

    def finished(self, input: Any, pooling: Any, following: Sequence[ModuleFiles]) -> Route:
        """The route of an input and a pooling, and of the modules that follow."""
        made = read_modules(following, pooling.dimension(input), weight_format_of(self.compute_type))
        return Route(input, pooling, made)


def _word_weights(files: ModuleFiles, input: Any) -> np.ndarray:
    last = max(input.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    return read_word_weights(files.part(), last + 1)


def pooled_at(kinds: Sequence[str]) -> int | None:
    """The place of the module that makes vectors; None if the order is not one that is known."""
    for start in (["StaticEmbedding"], ["Transformer", "Pooling"], ["Transformer", "WordWeights", "Pooling"]):
        if kinds[: len(start)] == start and set(kinds[len(start) :]) <= set(KINDS):
            return len(start) - 1
    return None


def _without_modules(source: ModelSource) -> tuple[ModuleFiles, ...]:
    """What a folder without modules.json is: of model2vec, or a plain model."""
    config = source.object("config.json", required=False)
    if config.get("model_type") == "model2vec":
        normalize = typed(source.place("config.json"), config, "normalize", bool, False)
        modules = [("StaticEmbedding", ""), *[("Normalize", "1_Normalize")] * normalize]
        return tuple(ModuleFiles(kind, partial(source.part, path, "config.json"), path) for kind, path in modules)
    return (ModuleFiles("Transformer", partial(source.part, "", "config.json"), ""),)


def _pooling_of(source: ModelSource) -> Pooling:
    """The pooling of a plain model: of one that was trained to continue texts the last token."""
    config = source.object("config.json")
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    continues = isinstance(first, str) and first.endswith("ForCausalLM") and bool(config.get("is_causal", True))
    return Pooling(("lasttoken" if continues else "mean",))


def _parts(modules: Sequence[ModuleFiles], at: int) -> tuple[Sequence[ModuleFiles], ModuleFiles, Sequence[ModuleFiles]]:
    return modules[:at], modules[at], modules[at + 1 :]


def _read_router(
    router: ModuleFiles,
) -> tuple[dict[str, list[ModuleFiles]], str | None, dict[tuple[Any, Any], str]]:
    """The modules of each route, the default route, and the mappings."""
    source = router.part()
    name = "router_config.json" if source.json("router_config.json") is not None else "config.json"
    config, place = source.object(name), source.place(name)
    check_fields(place, config, {"types", "structure", "parameters"})
    types, structure, parameters = (
        typed(place, config, part, dict, {}) for part in ("types", "structure", "parameters")
    )
    check_fields(place, parameters, _ROUTER_PARAMETERS)
    if not structure or not all(
        isinstance(ids, list)
        and ids
        and all(isinstance(types.get(i) if isinstance(i, str) else None, str) for i in ids)
        for ids in structure.values()
    ):
        raise CheckpointError(f"{place}: structure is {structure!r}; needed: route -> a list of modules, each of types")
    if "" in structure:
        raise CheckpointError(f"{place}: structure has a route without a name")
    routes = {
        route: [ModuleFiles(kind_of(types[i]), partial(source.part, i, name), f"{router.place}/{i}") for i in ids]
        for route, ids in structure.items()
    }
    default = typed(place, parameters, "default_route", str, None)
    if default is None and typed(place, parameters, "allow_empty_key", bool, True):
        default = next(iter(routes))
    mappings = {
        _mapping_key(place, key): route for key, route in typed(place, parameters, "route_mappings", dict, {}).items()
    }
    for route in (*mappings.values(), *([] if default is None else [default])):
        if route not in routes:
            raise CheckpointError(f"{place}: names the route {route!r}; there are: {', '.join(map(repr, routes))}")
    return routes, default, mappings


def _mapping_key(place: Any, text: str) -> tuple[Any, Any]:
    """ "('query', 'text')" -> its parts."""
    try:
        task, modality = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise CheckpointError(f"{place}: route_mappings has {text!r}; needed: a pair of task and modality") from None
    return task, modality
