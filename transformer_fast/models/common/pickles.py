"""`ReadFromSource`: how models pickle and are copied. `PretrainedModel` derives from it.

A model is pickled as the call that read it, and not as its weights, for as long as nothing of it has changed; the
version that every module has (`nn.Module`) tells. A further option of reading goes into what `note_source` is given.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, TypeVar

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.source import ModelSource
from transformer_fast.nn import Module

Model = TypeVar("Model", bound="ReadFromSource")


class ReadFromSource(Module):
    """A model that was read from a source pickles as the source and the options; after any change of it, and without a
    source, it pickles with its parameters. Copies share the parameters, which are read-only."""

    # The tokens that the head of a language model scores; None: all. `CausalLM.scoring` derives a class with others.
    token_ids: ClassVar[tuple[int, ...] | None] = None
    # Attributes that are no part of the version, since they decide nothing of `forward`: they pickle as they are.
    carried: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self._read_from: tuple | None = None  # version, source and options

    def note_source(self, source: ModelSource, options: dict[str, Any]) -> None:
        """Called when the model is whole: `from_checkpoint(..., **options)` of its class makes it again."""
        self.__dict__["_read_from"] = self._version, source, options  # not by an attribute, which changes the version

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._read_from is not None and self._read_from[0] is self._version:
            _, source, options = self._read_from
            return _read_again, (*self._class(), source, options, {name: getattr(self, name) for name in self.carried})
        reduced = super().__reduce_ex__(protocol)
        return reduced if self.token_ids is None else (_empty, self._class(), *reduced[2:])

    def _class(self) -> tuple[type, tuple[int, ...] | None]:
        """The class that its module has by name, and the tokens for which `CausalLM.scoring` derived from it."""
        kind = type(self)
        return (kind, None) if kind.token_ids is None else (kind.__bases__[0], kind.token_ids)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_read_from": None}

    def __copy__(self: Model) -> Model:
        return self._copied(self.__getstate__())

    def __deepcopy__(self: Model, memo: dict[int, Any]) -> Model:
        memo |= {id(parameter): parameter for parameter in self.parameters()}
        return self._copied(copy.deepcopy(self.__getstate__(), memo))

    def _copied(self: Model, state: dict[str, Any]) -> Model:
        other = type(self).__new__(type(self))
        other.__setstate__(state)
        return other


def _scoring(kind: Any, token_ids: tuple[int, ...] | None) -> Any:
    return kind if token_ids is None else kind.scoring(token_ids)


def _empty(kind: Any, token_ids: tuple[int, ...] | None) -> Any:
    kind = _scoring(kind, token_ids)
    return kind.__new__(kind)


def _read_again(
    kind: Any,
    token_ids: tuple[int, ...] | None,
    source: ModelSource,
    options: dict[str, Any],
    carried: dict[str, Any],
) -> Any:
    model = _scoring(kind, token_ids).from_checkpoint(Checkpoint.open(source), **options)
    model.__dict__.update(carried)
    return model
