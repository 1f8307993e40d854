"""What a constraint may ask for: schemas and grammars come from strangers, and some of them take hours or all memory.

`constraints` calls `check_schema`, `check_regex` and `check_grammar` before anything is compiled. llguidance bounds its
own work by counters, but for the cases that are bounded here; figures are of its release 1.9 on one core at 3 GHz.
A further bound is a constant here and a line in one of these functions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

# Bytes of a schema or grammar, and of a regular expression: 1 MB of the latter takes 2 s, in proportion.
MAX_BYTES, MAX_REGEX_BYTES = 262_144, 16_384
# serde_json refuses 128 levels; each of them, and each schema on a way of references, takes up to 10 KB of the stack.
MAX_DEPTH, MAX_SCHEMAS = 100, 5_000
# Grows with the square: 1,000 properties take 0.11 s, 10,000 take 13 s.
MAX_PROPERTIES = 1_000
# Expressions that have to hold at once: 8 take 0.05 s, 12 of the nasty ones more than 20 s.
MAX_INTERSECTIONS = 8
# An error in the last of a chain of rules grows with the square, too: 500 take 1 s, 8,000 take 6 minutes.
MAX_RULES = 500
# Grows with the least common multiple: 1,000 takes 1 ms, 1,000,000 takes 11 s and 0.3 GB.
MAX_MULTIPLE = 10_000

# Keywords whose values are data, in which nothing is a schema.
_DATA = frozenset({"const", "default", "enum", "examples", "required", "x-guidance"})
_PATTERNS = frozenset({"pattern", "format"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_COMBINED = ("$ref", "allOf", "anyOf", "oneOf")


def check_schema(schema: Any) -> None:
    """Raises ValueError where a JSON schema (plain data) is larger, deeper or more involved than may be compiled."""
    if not isinstance(schema, (Mapping, bool)):
        raise ValueError(f"the JSON schema is {_kind(schema)}; needed: an object")
    schemas = patterns = intersections = 0
    multiple = 1
    for node in _schemas(schema):
        schemas += 1
        if schemas > MAX_SCHEMAS:
            raise ValueError(f"the JSON schema has more than {MAX_SCHEMAS} parts; needed: at most so many")
        if "x-guidance" in node:
            raise ValueError(
                "the JSON schema has x-guidance, which is not supported; needed: JSON Schema's own keywords"
            )
        named = node.get("patternProperties")
        patterns += len(_PATTERNS & node.keys()) + (len(named) if isinstance(named, Mapping) else 0)
        intersections += _combined(node)
        multiple = _common_multiple(multiple, node.get("multipleOf"))
        for name in ("properties", "required"):
            count = len(found) if isinstance(found := node.get(name), (Mapping, list)) else 0
            if count > MAX_PROPERTIES:
                raise ValueError(f"{name} of the JSON schema has {count} entries; needed: at most {MAX_PROPERTIES}")
    if min(patterns, intersections) > MAX_INTERSECTIONS:
        raise ValueError(
            f"the JSON schema has {patterns} patterns and formats, and {intersections} places where schemas have to "
            f"hold at once (allOf, $ref beside other keywords); needed: at most {MAX_INTERSECTIONS} of one of them"
        )


def check_regex(pattern: str) -> None:
    """Raises ValueError where a regular expression is longer than may be compiled."""
    _check_size("the regular expression", pattern, MAX_REGEX_BYTES)


def check_grammar(text: str) -> None:
    """Raises ValueError where a grammar in Lark's form is longer or more involved than may be compiled."""
    _check_size("the grammar", text, MAX_BYTES)
    if len(re.findall("[&~]", text)) > MAX_INTERSECTIONS:
        raise ValueError(f"the grammar has more than {MAX_INTERSECTIONS} of & and ~; needed: at most so many")
    rules = len(re.findall(r"^\s*[?!]?\w[\w.]*\s*:", text, re.MULTILINE))
    if rules > MAX_RULES:
        raise ValueError(f"the grammar has {rules} rules; needed: at most {MAX_RULES}")
    for found in re.finditer(r"%json\s*", text):
        try:
            schema, _ = json.JSONDecoder().raw_decode(text, found.end())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the grammar has a malformed %json: {error}") from None
        check_schema(schema)


def check_text_of_schema(text: str) -> None:
    """Raises ValueError where the text of a schema is too long to be read."""
    _check_size("the JSON schema", text, MAX_BYTES)


def _check_size(what: str, text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds a lone surrogate, which UTF-8 cannot write") from None
    if size > most:
        raise ValueError(f"{what} has {size} bytes; needed: at most {most}")


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r:.40}"


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """All objects that may be schemas; names of properties are none."""
    left: list[tuple[Any, int, bool]] = [(schema, 0, True)]
    while left:
        value, depth, is_schema = left.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"the JSON schema has more than {MAX_DEPTH} levels; needed: at most so many")
        if isinstance(value, Mapping):
            if is_schema:
                yield value
            for name, one in value.items():
                if not (is_schema and name in _DATA):
                    left.append((one, depth + 1, not (is_schema and name in _NAMED)))
        elif isinstance(value, list):
            left += [(one, depth + 1, True) for one in value]


def _combined(node: Mapping[str, Any]) -> int:
    """How many schemas have to hold at once here, but for the first."""
    branches = node.get("allOf")
    count = len(branches) if isinstance(branches, list) else 0
    others = [name for name in _COMBINED if name in node and name != "allOf"]
    beside = any(name not in _COMBINED and not name.startswith("$") for name in node)
    return max(count + len(others) + beside - 1, 0) if count or others else 0


def _common_multiple(multiple: int, step: Any) -> int:
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not math.isfinite(step) or step <= 0:
        return multiple  # llguidance refuses it
    multiple = math.lcm(multiple, Fraction(str(step)).numerator)
    if multiple > MAX_MULTIPLE:
        raise ValueError(
            f"multipleOf of the JSON schema: {step} makes the least common multiple {multiple}; needed: at most "
            f"{MAX_MULTIPLE}"
        )
    return multiple
