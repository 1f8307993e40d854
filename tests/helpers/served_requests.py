"""Requests of every kind to the models of `served_folders`, and what of an answer must not depend on load.

tests/clients/test_load.py and tests/server/soak.py send them. A further endpoint is a line in `requests`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from served_folders import random_texts

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "tame": {"type": "boolean"}},
    "required": ["kind", "tame"],
    "additionalProperties": False,
}
CONSTRAINED = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}
_SHARED = "the cat sat on the mat " * 8  # prompts with a common start, whose pages are shared


def chat(text: str, **options: Any) -> tuple[str, dict]:
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], "max_tokens": 24, **options}
    return "/v1/chat/completions", body


def completion(text: str, **options: Any) -> tuple[str, dict]:
    return "/v1/completions", {"model": "chat", "prompt": text, **options}


def requests(rng: np.random.Generator) -> list[tuple[str, dict]]:
    """(path, body) of each kind, in random order; each has one right answer."""
    texts = iter(random_texts(rng, 400))

    def some(n: int) -> list[str]:
        return [next(texts) for _ in range(n)]

    made: list[tuple[str, dict]] = []
    for i in range(8):
        made += [
            ("/v1/embeddings", {"model": "embed", "input": some(1 + i), "encoding_format": ("float", "base64")[i % 2]}),
            ("/v1/rerank", {"model": "rerank", "query": some(1)[0], "documents": some(1 + i)}),
            ("/v1/classify", {"model": "classify", "input": some(1 + i % 3)}),
            chat(some(1)[0], temperature=0),
            chat(_SHARED + some(1)[0], temperature=0, stream=True),
            chat(some(1)[0], temperature=1.1, seed=i, n=1 + i % 2),
            chat(_SHARED + some(1)[0], temperature=0.8, top_p=0.9, seed=i, stream=True),
            chat(some(1)[0], temperature=0, max_tokens=60, response_format=CONSTRAINED),
            completion(some(1)[0], max_tokens=40, temperature=0),
            completion(some(1)[0], max_tokens=9, seed=i, logprobs=2),
        ]
    return [made[i] for i in rng.permutation(len(made))]


def essence(content_type: str, text: str) -> object:
    """What must not depend on load: all but names, times and what was found in the cache; a stream joined."""
    if content_type.startswith("text/event-stream"):
        events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert events and events[-1] == "[DONE]", f"a stream that does not end: {text[-200:]!r}"
        choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
        said = "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)
        return said, choices[-1]["finish_reason"]
    body = json.loads(text)
    usage = {name: value for name, value in body.get("usage", {}).items() if name.endswith("_tokens")}
    return {**{name: body[name] for name in ("data", "results", "choices") if name in body}, "usage": usage}
