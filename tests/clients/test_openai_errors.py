"""The official `openai` client: which of its exceptions a refusal becomes, and that it tries again after a 429."""

from __future__ import annotations

import threading
import time

import pytest

openai = pytest.importorskip("openai")

ASK = [{"role": "user", "content": "2+2?"}]


def test_refusals_name_the_argument(client):
    with pytest.raises(openai.BadRequestError, match="temperature") as refused:
        client.chat.completions.create(model="chat", messages=ASK, temperature=-3)
    assert refused.value.type == "invalid_request_error" and refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="no_such_option"):
        client.chat.completions.create(model="chat", messages=ASK, extra_body={"no_such_option": 1})
    with pytest.raises(openai.BadRequestError, match="encoding_format"):
        client.embeddings.create(model="embed", input="a", encoding_format="hex")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="chat", messages=[{"role": "king", "content": "2+2?"}])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="chat", messages=ASK, max_tokens=1_000_000)


def test_a_model_that_is_not_there_or_of_another_kind(client):
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.embeddings.create(model="gpt-9", input="a")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises((openai.BadRequestError, openai.NotFoundError), match="chat"):
        client.embeddings.create(model="chat", input="a")


@pytest.mark.parametrize("key", ["", "wrong", "a-key-of-the-testS"])
def test_keys(server, key):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key or "none", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.embeddings.create(model="embed", input="a")


def test_a_full_server_answers_429_and_the_client_tries_again(folders):
    """One request runs, one waits, a third has no room; with retries it gets its answer later."""
    from servers import Server

    only = {"chat": folders["chat"]}
    with Server(only, "--max-queue", "1", "--max-tokens-in-flight", "4096") as server:
        url = f"{server.url}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:

            def ask(tokens: int, client=client):
                return client.chat.completions.create(model="chat", messages=ASK, temperature=0, max_tokens=tokens)

            whole = ask(4).choices[0].message.content
            long = [threading.Thread(target=ask, args=(3900,)) for _ in range(2)]
            for thread in long:
                thread.start()
                time.sleep(0.15)
            with pytest.raises(openai.RateLimitError) as refused:
                for _ in range(20):
                    ask(300)
            assert int(refused.value.response.headers["retry-after"]) >= 1
            assert refused.value.response.json()["error"]["message"]
            with openai.OpenAI(base_url=url, api_key="none", max_retries=60, timeout=120) as patient:
                assert ask(4, patient).choices[0].message.content == whole
            for thread in long:
                thread.join()
