"""JSON schemas that clients send as response_format: random ones and hostile ones never hang the server.

Each request has an answer within `LIMIT` seconds: a constrained one, or 400 with the reason. A further trap is an
entry in HOSTILE.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from servers import KEY

httpx = pytest.importorskip("httpx")

# Seconds for 30 tokens of the tiny model and the schema's compilation, with others at the same time: ten times what the
# slowest took on two processors.
LIMIT = 20.0
RANDOM = 60


def nested(depth: int) -> dict:
    schema: dict = {"type": "boolean"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    return schema


def references(depth: int) -> dict:
    """Each definition refers twice to the next: 2**depth when they are written out."""
    name = "#/$defs/d{}".format
    defs = {
        f"d{i}": {"type": "array", "prefixItems": [{"$ref": name(i + 1)}, {"$ref": name(i + 1)}]} for i in range(depth)
    }
    return {"$defs": defs | {f"d{depth}": {"type": "null"}}, "$ref": name(0)}


_PAIR = {"type": "object", "properties": {"a": {"type": "string"}}}
HOSTILE = {
    "deep": nested(400),
    "deeper than a parser's stack": nested(5_000),
    "doubling references": references(40),
    "reference to itself": {"$ref": "#"},
    "references in a circle": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "reference to nothing": {"$ref": "#/$defs/none"},
    "reference to a host": {"$ref": "http://127.0.0.1:9/schema.json"},
    "reference to a file": {"$ref": "file:///etc/passwd"},
    "recursive list": {"$defs": {"l": {"type": "array", "items": {"$ref": "#/$defs/l"}}}, "$ref": "#/$defs/l"},
    "many properties": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5_000)}},
    "many optional properties": {"type": "object", "properties": {f"p{i}": {"enum": [1]} for i in range(500)}},
    "large enum": {"enum": [f"value {i}" for i in range(50_000)]},
    "huge counts": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9, "maxItems": 10**12},
    "huge strings": {"type": "string", "minLength": 10**9, "maxLength": 2 * 10**9},
    "counts of counts": {
        "type": "array",
        "minItems": 1_000,
        "maxItems": 1_000,
        "items": {
            "type": "array",
            "minItems": 1_000,
            "maxItems": 1_000,
            "items": {"type": "string", "maxLength": 9_999},
        },
    },
    "empty range": {"type": "integer", "minimum": 3, "maximum": 2},
    "narrow range of huge numbers": {"type": "integer", "minimum": 10**300, "maximum": 10**300 + 1},
    "never": False,
    "nothing fits": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "product of alternatives": {
        "allOf": [{"anyOf": [{"minLength": i}, {"maxLength": j}]} for i in range(12) for j in range(12)]
    },
    "alternatives of alternatives": {"anyOf": [{"anyOf": [_PAIR] * 200}] * 200},
    "exponential pattern": {"type": "string", "pattern": "^(a+)+$"},
    "counted pattern": {"type": "string", "pattern": "^((a{1,999}){1,999}){1,999}$"},
    "pattern that is none": {"type": "string", "pattern": "(("},
    "backward pattern": {"type": "string", "pattern": r"^(a)\1(?=b)$"},
    "many patterns": {"type": "object", "patternProperties": {f"^a{{{i}}}": {} for i in range(300)}},
    "unknown type": {"type": "king"},
    "wrong types of keywords": {"type": "object", "properties": [1], "required": "a"},
    "a text": "schema",
    "a list": [],
    "numbers that are none": {"type": "number", "minimum": "1", "multipleOf": 0},
}


def random_schema(rng: np.random.Generator, depth: int = 3):
    """Of all keywords, right and wrong ones."""
    kinds = ["object", "array", "string", "integer", "number", "boolean", "null"]
    pick = rng.integers(12)
    if depth == 0 or pick < 4:
        kind = str(rng.choice(kinds[2:]))
        bounds = {"minimum": int(rng.integers(-99, 99)), "maximum": int(rng.integers(-99, 99))}
        lengths = {"minLength": int(rng.integers(5)), "maxLength": int(rng.integers(9))}
        extra = {"string": lengths, "integer": bounds, "number": bounds}.get(kind, {})
        return {"type": kind, **(extra if rng.integers(2) else {})}
    inner = [random_schema(rng, depth - 1) for _ in range(rng.integers(1, 4))]
    if pick < 7:
        names = [f"n{i}" for i in range(len(inner))]
        closed = {} if rng.integers(2) else {"additionalProperties": bool(rng.integers(2))}
        return {"type": "object", "properties": dict(zip(names, inner, strict=True)), "required": names[:1], **closed}
    if pick < 9:
        return {
            "type": "array",
            "items": inner[0],
            "maxItems": int(rng.integers(4)),
            "uniqueItems": bool(rng.integers(2)),
        }
    keyword = str(rng.choice(["anyOf", "oneOf", "allOf", "not", "if", "enum", "const", "$ref", "nonsense"]))
    return {keyword: inner if keyword in ("anyOf", "oneOf", "allOf", "enum") else inner[0]}


def ask(server, schema, tokens: int = 30) -> tuple[int, dict, float]:
    """(status, body, seconds)"""
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": "go"}],
        "max_tokens": tokens,
        "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
    }
    began = time.monotonic()
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        content=json.dumps(body),
        headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
        timeout=LIMIT,
    )
    return answer.status_code, answer.json(), time.monotonic() - began


def check(server, schema) -> None:
    status, body, _ = ask(server, schema)
    assert status in (200, 400, 413, 422), body
    if status == 200:
        assert body["choices"][0]["finish_reason"] in ("stop", "length")
        if body["choices"][0]["finish_reason"] == "stop":
            json.loads(body["choices"][0]["message"]["content"])
    else:
        assert body["error"]["message"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schema(server, name):
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # json.dumps of the deep ones
    try:
        check(server, HOSTILE[name])
    finally:
        sys.setrecursionlimit(before)


def test_others_go_on_while_schemas_are_compiled(server):
    """The event loop answers, and so does another generation."""
    slow = [HOSTILE[name] for name in ("large enum", "many optional properties", "counted pattern", "counts of counts")]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(check, server, schema) for schema in slow]
        began = time.monotonic()
        assert httpx.get(f"{server.url}/health", timeout=LIMIT).status_code == 200
        assert time.monotonic() - began < LIMIT / 4
        for done in asked:
            done.result()


def test_random_schemas(server):
    rng = np.random.default_rng(20)
    schemas = [random_schema(rng) for _ in range(RANDOM)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda schema: check(server, schema), schemas))
