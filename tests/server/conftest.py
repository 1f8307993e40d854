"""Fixtures of the tests of pages: one browser for all of them."""

from __future__ import annotations

import browsers
import pytest


@pytest.fixture(scope="session")
def browser():
    with browsers.start() as started:
        yield started


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Name -> `Served` of each kind of model, tiny: "embed", "rerank", "classify", "chat"."""
    for name in ("starlette", "uvicorn", "pydantic", "orjson", "httpx", "tokenizers", "llguidance"):
        pytest.importorskip(name)
    from served_folders import write_served

    from transformer_fast.server import load_served
    from transformer_fast.serving import Turns

    turns = Turns()
    folders = write_served(tmp_path_factory.mktemp("served"))
    models = {name: load_served(name, str(folder), turns=turns) for name, folder in folders.items()}
    yield models
    for one in models.values():
        one.engine.close()


@pytest.fixture(scope="session")
def client(served):
    """A client of an application with default settings, in this process."""
    with client_of(served) as made:
        yield made


def client_of(models, **settings):
    from starlette.testclient import TestClient

    from transformer_fast.server import Settings, create_app

    return TestClient(create_app(models, Settings(**settings)), "http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="session")
def make_client(served):
    """settings -> as `client`, with these settings."""
    return lambda models=None, **settings: client_of(served if models is None else models, **settings)
