"""One server of the four tiny models of helpers/served_folders.py, for clients that people use; the extra `clients`.

The clients are those of PyPI, unchanged: only their base_url is another. `make clients` runs these tests.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from servers import KEY


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "clients":
            item.add_marker("clients")
            item.add_marker("thread_unsafe")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Name -> the folder of the model."""
    from served_folders import write_served

    return write_served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# one a line\n{KEY}\nanother-key\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def server(folders, keys):
    from servers import Server

    with Server(folders, "--api-key-file", str(keys)) as running:
        yield running


@pytest.fixture(scope="session")
def local(folders):
    """The models in this process, as programs without the server have them: what answers must equal."""
    from transformer_fast import CrossEncoder, SentenceEncoder, load_model, load_tokenizer
    from transformer_fast.pipelines import load_classifier

    return SimpleNamespace(
        encoder=SentenceEncoder.from_pretrained(folders["embed"]),
        reranker=CrossEncoder.from_pretrained(folders["rerank"]),
        classifier=load_classifier(folders["classify"]),
        model=load_model(folders["chat"]),
        tokenizer=load_tokenizer(folders["chat"]),
    )


@pytest.fixture(scope="session")
def client(server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def aclient(server):
    """Within one event loop, that of the test's asyncio.run."""
    openai = pytest.importorskip("openai")
    return lambda: openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60)
