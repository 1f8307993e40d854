"""`Module`: named parameters, nested modules, state dicts. Every block of `nn` and every model is one.

A new block subclasses `Module`, calls `register_parameter` for each of its arrays, sets its parts as attributes and
writes `forward`. Parameters are read-only arrays: replace one by assigning a new array to its name. That is what makes
it safe to keep packed forms of them, and to share them with a memory-mapped file. They are float32; weights that are
only packed or looked up keep the half-precision type of their file (`register_parameter(..., half=True, packed=True)`),
or its integers or blocks, so that loading makes no float32 copy of them.

Names and behaviour follow torch.nn.Module as far as inference needs it.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from transformer_fast.functional.block_weight import BlockWeight
from transformer_fast.functional.linear import AS_STORED, AS_STORED_A8, FORMATS
from transformer_fast.functional.stored_weight import StoredWeight
from transformer_fast.nn import init


class IncompatibleKeys(NamedTuple):
    """The names that a `load_state_dict(strict=False)` left aside."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all blocks; calling it runs `forward`.

    Example:
        >>> class Twice(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = nn.Linear(4, 4)
        ...
        ...     def forward(self, x):
        ...         return self.linear(self.linear(x))
        >>> list(Twice().state_dict())
        ['linear.weight', 'linear.bias']
    """

    packs_for_decode = False  # set by pack_for_decode
    _version: object  # another object after each change of this module or of a part of it, at any depth
    weight_format = "float32"  # set by set_weight_format
    _norm_before: tuple = (None, 1)  # set by follows: norm, parts. In a tuple: a module alone would be a part of this

    def __init__(self) -> None:
        self.__dict__["_version"] = object()
        self.__dict__["_owners"] = {}  # weak references to modules that have had this one as a part -> None
        self.__dict__["_parameters"] = {}
        self.__dict__["_half_names"] = set()  # names of parameters that may be float16 or bfloat16
        self.__dict__["_packed_names"] = set()  # of parameters that may be a StoredWeight as well
        self.__dict__["_modules"] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward(); needed: a subclass that defines it")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def register_parameter(
        self,
        name: str,
        shape: tuple[int, ...] | None,
        initialize: init.Initializer,
        *,
        half: bool = False,
        packed: bool = False,
    ) -> None:
        """A new parameter of that shape; shape None means that the module goes without it (bias=False).

        half: the module only looks rows up in it, so that it may be float16, bfloat16 or a BlockWeight. packed: it only
        packs it, so that it may be any StoredWeight.
        """
        self._parameters[name] = None
        if half or packed:
            self._half_names.add(name)
        if packed:
            self._packed_names.add(name)
        if shape is not None:
            self._parameters[name] = _read_only(init.create(shape, initialize))
        self._changed()

    def parameters(self) -> Iterator[np.ndarray]:
        for _, array in self.named_parameters():
            yield array

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of this module's parameters and of all its parts, with dots between the levels."""
        for path, module in self.named_modules(prefix):
            for name, array in module._parameters.items():
                if array is not None:
                    yield (f"{path}.{name}" if path else name), array

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and of all its parts."""
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Name -> read-only array of every parameter."""
        return dict(self.named_parameters())

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Takes the parameters from `state`.

        Read-only arrays (memory-mapped checkpoints) are shared, writable ones are copied. float16 and bfloat16 stay
        where a module only packs them or looks rows up in them; all else is converted to float32.

        Raises:
            ValueError: names that are missing or unexpected (unless strict=False), or misshapen arrays; all are named,
                and nothing is changed.
            TypeError: an array is not of a floating-point type.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        half, packed = self._names_of("_half_names"), self._names_of("_packed_names")
        arrays = {
            name: _stored(f"state[{name!r}]", state[name], name in half, name in packed)
            for name in own
            if name in state
        }
        misshapen = [
            f"{name} has shape {array.shape}; needed: {own[name].shape}"
            for name, array in arrays.items()
            if array.shape != own[name].shape
        ]
        problems = {"misshapen": misshapen}
        if strict:
            problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
        if any(problems.values()):
            text = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
            raise ValueError(f"state does not fit {type(self).__name__}: {text}")
        changed = []
        for path, module in self.named_modules():
            names = {name: (f"{path}.{name}" if path else name) for name in module._parameters}
            loaded = [name for name, full in names.items() if full in arrays]
            for name in loaded:
                module._parameters[name] = arrays[names[name]]
            if loaded:
                module._changed()
                changed.append(module)
        for module in changed:  # when all parameters are there: packing may look at those of another module
            module._loaded()
        return IncompatibleKeys(missing, unexpected)

    def _loaded(self) -> None:
        """Called when own parameters have been loaded: the place to prepare what the first call would have to."""

    def _names_of(self, table: str) -> set[str]:
        """The full names of the parameters in that table of this module and all its parts."""
        return {
            f"{path}.{name}" if path else name
            for path, module in self.named_modules()
            for name in getattr(module, table)
        }

    def set_weight_format(self, name: str) -> Module:
        """How this module and all its parts pack their weights: a format of `functional.pack_weight`.

        Called before parameters are loaded, it saves packing twice. Returns the module.

        Raises:
            ValueError: there is no such format.

        Example:
            >>> linear = nn.Linear(3, 2).set_weight_format("bfloat16")
            >>> linear.packed().format
            'bfloat16'
        """
        if name not in (*FORMATS, AS_STORED, AS_STORED_A8):
            raise ValueError(f"name is {name!r}; needed: one of {', '.join((*FORMATS, AS_STORED, AS_STORED_A8))}")
        for _, part in self.named_modules():
            part.weight_format = name
        return self

    def follows(self, norm: Module, parts: int = 1) -> Module:
        """Says that this module's input is the output of `norm`, a LayerNorm or RMSNorm. Returns the module.

        Weights that are packed as "int8" are then smoothed: the norm's parameters tell which columns of the input are
        large (nn/smoothing.py). parts: equal parts of the weight's rows that are layers of their own, as query, key and
        value. Nothing else changes.
        """
        self.__dict__["_norm_before"] = norm, parts
        self._changed()
        return self

    def pack_for_decode(self, chosen: bool = True) -> Module:
        """Packs the weights of this module and all its parts for small M: a few dozen rows at a time at most.

        A decoder that writes token by token needs that; see for_decode of `functional.pack_weight`. Called before
        parameters are loaded, it saves packing twice. False undoes it, for models that only read. Returns the module.
        """
        for _, part in self.named_modules():
            part.packs_for_decode = chosen
        return self

    def eval(self) -> Module:
        """Returns the module itself: it only ever runs inference. (For code that was written for torch.)"""
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call Module.__init__() before setting {name!r}")
        if name in self._parameters:
            self._parameters[name] = self._checked(name, value)
        elif isinstance(value, Module):
            self.__dict__.pop(name, None)
            self._put(name, value)
        else:
            self._modules.pop(name, None)
            object.__setattr__(self, name, value)
        self._changed()

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._changed()

    def __getattr__(self, name: str) -> Any:
        tables = self.__dict__
        # Nothing is there yet while a copy is being made.
        if "_modules" in tables and (name in (found := tables["_modules"]) or name in (found := tables["_parameters"])):
            return found[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _checked(self, name: str, value: Any) -> np.ndarray:
        current = self._parameters[name]
        label = f"{type(self).__name__}.{name}"
        if current is None:
            raise ValueError(f"{label} was left out when the module was made (bias=False or alike); it cannot be set")
        array = _stored(label, value, name in self._half_names, name in self._packed_names)
        if array.shape != current.shape:
            raise ValueError(f"{label} was given shape {array.shape}; needed: {current.shape}")
        return array

    def _add(self, name: str, module: Module) -> None:
        """Adds a part under a name that need not be an identifier, as the parts of containers have."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}[{name!r}] was given a {type(module).__name__}; needed: a Module")
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"{type(self).__name__} was given the name {name!r}; needed: a string without dots")
        self._put(name, module)
        self._changed()

    def _put(self, name: str, module: Module) -> None:
        self._modules[name] = module
        module._note_owner(self)

    def _note_owner(self, owner: Module) -> None:
        for dead in [reference for reference in list(self._owners) if reference() is None]:
            self._owners.pop(dead, None)
        self._owners[weakref.ref(owner)] = None

    def _changed(self) -> None:
        """Gives this module, and all that it is a part of, another version; called after the change.

        A module that is no longer a part still changes its former owner's version, which costs that one a look.
        """
        waiting, seen = [self], set()
        while waiting:
            module = waiting.pop()
            if id(module) not in seen:  # a former part may own its former owner now
                seen.add(id(module))
                module.__dict__["_version"] = object()
                # list() is atomic: another thread may note an owner.
                waiting += [owner for reference in list(module._owners) if (owner := reference()) is not None]

    def __getstate__(self) -> dict[str, Any]:
        own = ("_version", "_owners", "_packed_source")  # _packed_source: see packed_weights
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # copy.copy passes the original's own tables: a copy that shared them would change it without a new version.
        tables = {name: copy.copy(state[name]) for name in ("_parameters", "_half_names", "_packed_names", "_modules")}
        self.__dict__.update(state, **tables, _version=object(), _owners={})
        for part in self._modules.values():
            part._note_owner(self)

    def extra_repr(self) -> str:
        """The text in the brackets of `repr(module)`."""
        return ""

    def __repr__(self) -> str:
        parts = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        inside = "\n  ".join(["", *([self.extra_repr()] if self.extra_repr() else []), *parts]) + "\n"
        return f"{type(self).__name__}({inside if parts else self.extra_repr()})"


class ModuleList(Module):
    """Modules in a row, named "0", "1", ... in state dicts.

    Example:
        >>> layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 2)])
        >>> list(layers.state_dict())
        ['0.weight', '0.bias', '1.weight', '1.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, module: Module) -> ModuleList:
        """Adds a module at the end; returns the list itself."""
        name = str(len(self))
        if name in self._modules:  # a slice of a Sequential keeps its names
            raise ValueError(f"the names {list(self._modules)} are taken; needed: modules that are counted from 0")
        self._add(name, module)
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Adds modules at the end; returns the list itself."""
        for module in modules:
            self.append(module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        """A module, or for a slice a list of the same kind with some of them."""
        names = list(self._modules)[index]
        return self._part(names) if isinstance(index, slice) else self._modules[names]

    def __setitem__(self, index: int, module: Module) -> None:
        self._add(list(self._modules)[index], module)

    def _part(self, names: list[str]) -> ModuleList:
        return ModuleList(self._modules[name] for name in names)


def clones(layer: Module, count: int) -> ModuleList:
    """`count` copies; they share their read-only arrays until other ones are assigned."""
    if count < 0:
        raise ValueError(f"{count} copies are asked for; needed: a number that is not negative")
    return ModuleList([copy.deepcopy(layer, {id(array): array for array in layer.parameters()}) for _ in range(count)])


def _stored(label: str, value: Any, half: bool, packed: bool) -> np.ndarray | StoredWeight:
    """`value` as a read-only array of float32; where `half` or `packed` allow it, in half precision or as it is stored.

    Itself if it is one already, else a copy.
    """
    if isinstance(value, BlockWeight) and half:
        return value
    if isinstance(value, StoredWeight):
        if packed:
            return value
        value = value.dequantised()
    array = np.asarray(value)
    # bfloat16 has kind "V", and so have structured types.
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise TypeError(f"{label} has dtype {array.dtype}; needed: a floating-point type")
    dtype = array.dtype if half and array.dtype.name in ("float16", "bfloat16") else np.dtype(np.float32)
    return _read_only(array.astype(dtype, copy=array.flags.writeable))


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.view()
    array.flags.writeable = False
    return array
