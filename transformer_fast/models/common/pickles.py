"""`ReadFromSource`: how models pickle and are copied. `PretrainedModel` derives from it.

A model is pickled as the call that read it, and not as its weights, for as long as nothing of it has changed; the
version that every module has (`nn.Module`) tells. A further option of reading goes into what `note_source` is given;
an attribute that may change in place and goes along either way, into `pickled_settings`.
"""

from __future__ import annotations

import copy
from operator import methodcaller
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
    # The class that `CausalLM.scoring` derived it from, which a module has by name; None: this one is such a class.
    scoring_of: ClassVar[type | None] = None
    # Attributes that go along with the source.
    pickled_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self._read_from: tuple | None = None  # version, source and options
        self._derived_from: tuple | None = None  # version, another model, its version, its method and arguments

    def note_source(self, source: ModelSource, options: dict[str, Any]) -> None:
        """Called when the model is whole: `from_checkpoint(..., **options)` of its class makes it again."""
        self.__dict__["_read_from"] = self._version, source, options  # not by an attribute, which changes the version

    def note_setting(self, name: str, value: Any) -> None:
        """Sets an attribute of `pickled_settings`, after `note_source`: the version stays."""
        self.__dict__[name] = value

    def note_derived(self, other: ReadFromSource, method: str, *arguments: Any) -> None:
        """Called when other.method(*arguments) has made this model, which shares other's parameters.

        It pickles as that call for as long as neither of the two changes, so that both share parameters there, too.
        """
        self.__dict__["_derived_from"] = self._version, other, other._version, method, arguments

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._derived_from is not None and self._derived_from[0] is self._version:
            _, other, version, method, arguments = self._derived_from
            if other._version is version:
                return methodcaller(method, *arguments), (other,)
        if self._read_from is not None and self._read_from[0] is self._version:
            _, source, options = self._read_from
            settings = {name: self.__dict__[name] for name in self.pickled_settings}
            return _read_again, (*self._class(), source, options, settings)
        return _blank, self._class(), self.__getstate__()

    def _class(self) -> tuple[type, tuple[int, ...] | None]:
        """The class that its module has by name, and the tokens for which `CausalLM.scoring` derived from it."""
        derived = vars(type(self)).get("scoring_of")
        return (type(self), None) if derived is None else (derived, self.token_ids)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_read_from": None, "_derived_from": None}

    def __copy__(self: Model) -> Model:
        return self._copied(self.__getstate__())

    def __deepcopy__(self: Model, memo: dict[int, Any]) -> Model:
        memo |= {id(parameter): parameter for parameter in self.parameters()}
        return self._copied(copy.deepcopy(self.__getstate__(), memo))

    def _copied(self: Model, state: dict[str, Any]) -> Model:
        other = type(self).__new__(type(self))
        other.__setstate__(state)
        return other


def _class_again(kind: Any, token_ids: tuple[int, ...] | None) -> Any:
    return kind if token_ids is None else kind.scoring(token_ids)


def _read_again(
    kind: Any,
    token_ids: tuple[int, ...] | None,
    source: ModelSource,
    options: dict[str, Any],
    settings: dict[str, Any],
) -> Any:
    model = _class_again(kind, token_ids).from_checkpoint(Checkpoint.open(source), **options)
    for name, value in settings.items():
        model.note_setting(name, value)
    return model


def _blank(kind: Any, token_ids: tuple[int, ...] | None) -> Any:
    """A model that `__setstate__` fills."""
    kind = _class_again(kind, token_ids)
    return kind.__new__(kind)
