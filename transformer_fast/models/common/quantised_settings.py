"""`Place`: where config.json speaks of integers, and what is checked of it; for `quantised` and `quantised_groups`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer_fast.files.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a setting stands, for error texts."""

    file: Path
    field: str

    def part(self, name: str) -> Place:
        return Place(self.file, f"{self.field}.{name}")

    def check(
        self, settings: Mapping[str, Any], allowed: Mapping[str, tuple | None], needed: tuple[str, ...] = ()
    ) -> None:
        """Each field is known, and has one of the values that are supported (None: any); the needed ones are there."""
        for name in needed:
            if name not in settings:
                raise CheckpointError(f"{self.file}: {self.field} has no field {name!r}; needed: one")
        for name, value in settings.items():
            if name not in allowed:
                raise CheckpointError(f"{self.file}: {self.field} has the field {name!r}, which is not known")
            values = allowed[name]
            if values is not None and not any(type(value) is type(one) and value == one for one in values):
                told = ", ".join(map(repr, values))
                raise CheckpointError(f"{self.file}: {self.field}.{name} is {value!r}; supported: {told}")
