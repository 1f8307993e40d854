"""`Sequential` and `ModuleDict`, with torch's names and indexing. `ModuleList` is in module.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transformer_fast.nn.activation import Elementwise
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module, ModuleList


class Sequential(ModuleList):
    """Modules that are called one after the other, as torch.nn.Sequential.

    Sequential(first, second, ...) names them "0", "1", ...; Sequential({"name": first, ...}) as the mapping does. A
    `Linear` that an activation follows applies it while its result is in cache, which gives the same bits sooner.

    Example:
        >>> mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
        >>> mlp(np.ones((3, 4), np.float32)).shape, list(mlp.state_dict())
        ((3, 2), ['0.weight', '0.bias', '2.weight', '2.bias'])
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], Mapping) else None
        for name, module in named.items() if named is not None else enumerate(modules):
            self._add(str(name), module)

    def forward(self, input: Any) -> Any:
        """The output of the last module; without modules the input itself."""
        modules = list(self)
        done = 0
        while done < len(modules):
            module = modules[done]
            follower = modules[done + 1] if done + 1 < len(modules) else None
            fused = follower.fused if type(module) is Linear and isinstance(follower, Elementwise) else None
            input = module(input) if fused is None else module(input, activation=fused)
            done += 1 if fused is None else 2
        return input

    def _part(self, names: list[str]) -> Sequential:
        """As in torch, a slice keeps the names."""
        return Sequential({name: self._modules[name] for name in names})


class ModuleDict(Module):
    """Modules by name, as torch.nn.ModuleDict: a mapping whose parts' parameters belong to it.

    Example:
        >>> heads = nn.ModuleDict({"tags": nn.Linear(4, 9), "names": nn.Linear(4, 3)})
        >>> "tags" in heads, heads["names"].out_features, list(heads)
        (True, 3, ['tags', 'names'])
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        self.update(modules)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Adds the modules, or puts them in the place of those with their names."""
        for name, module in dict(modules).items():
            self[name] = module

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self._add(name, module)

    def __delitem__(self, name: str) -> None:
        del self._modules[name]
        self._changed()

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> Iterable[str]:
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        return self._modules.items()
