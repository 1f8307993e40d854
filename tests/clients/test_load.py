"""64 clients at random moments: each answer is the one that it has alone, whatever else is in the batch.

Embeddings, scores and classes bit for bit, chat token for token, greedy and sampled with a seed, whole and streamed.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from served_folders import random_texts
from served_requests import essence, requests
from servers import KEY

httpx = pytest.importorskip("httpx")

CLIENTS = 64
REQUESTS = 6  # of each client
# Mean seconds between a client's answer and its next request: short next to an answer's under load, so that the batches
# are full, and not 0, so that requests join running ones.
PAUSE = 0.02
PATHS = [("embeddings", "embed"), ("classify", "classify")]


async def _send(client: httpx.AsyncClient, request: tuple[str, dict]) -> object:
    path, body = request
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return essence(answer.headers["content-type"], answer.text)


async def _under_load(url: str, chosen: list[list[int]], sent: list[tuple[str, dict]], seed: int) -> list[list[object]]:
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits) as client:

        async def one(number: int) -> list[object]:
            rng = np.random.default_rng([seed, number])
            got = []
            for i in chosen[number]:
                await asyncio.sleep(rng.exponential(PAUSE))
                got.append(await _send(client, sent[i]))
            return got

        return await asyncio.gather(*(one(number) for number in range(len(chosen))))


async def _alone(url: str, sent: list[tuple[str, dict]]) -> list[object]:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as client:
        return [await _send(client, request) for request in sent]


@pytest.mark.parametrize("seed", range(2))
def test_answers_under_load_are_those_alone(server, seed):
    rng = np.random.default_rng(seed)
    sent = requests(rng)
    chosen = [rng.integers(len(sent), size=REQUESTS).tolist() for _ in range(CLIENTS)]
    alone = asyncio.run(_alone(server.url, sent))
    got = asyncio.run(_under_load(server.url, chosen, sent, seed))
    for numbers, answers in zip(chosen, got, strict=True):
        for i, answer in zip(numbers, answers, strict=True):
            assert answer == alone[i], sent[i]


def test_alone_is_what_the_library_computes(server, local):
    """So that "the same under load" is not the same mistake twice."""
    texts = random_texts(np.random.default_rng(3), 20)
    bodies = [(f"/v1/{path}", {"model": model, "input": texts}) for path, model in PATHS]
    vectors, classes = asyncio.run(_alone(server.url, bodies))
    got = np.array([item["embedding"] for item in vectors["data"]], np.float32)
    np.testing.assert_array_equal(got, local.encoder.encode(texts))
    assert len(classes["data"]) == len(texts)
