"""Chats and completions over HTTP: tokens are those of `generate`, whole and in streams, in OpenAI's form."""

from __future__ import annotations

import json

import numpy as np
import pytest

HELLO = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def post(client, path: str, **body):
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(client, path: str, **body) -> list[dict]:
    answer = client.post(f"/v1/{path}", json={**body, "stream": True})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    *data, last, end = answer.text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    return [json.loads(one.removeprefix("data: ")) for one in data]


def greedy(served, ids: list[int], count: int) -> str:
    model = served["chat"]
    found = model.model.generate(np.array([ids]), max_new_tokens=count, do_sample=False)
    return model.tokenizer.decode(found[0, len(ids) :].tolist(), skip_special_tokens=True)


def test_completions_are_those_of_generate(client, served):
    ids = served["chat"].tokenizer.encode("Hello").ids
    expected = greedy(served, ids, 12)
    for prompt in ("Hello", ids, ["Hello"], [ids]):
        found = post(client, "completions", model="chat", prompt=prompt, max_tokens=12, temperature=0)
        assert found["choices"][0]["text"] == expected
        assert found["usage"]["prompt_tokens"] == len(ids)
    several = post(client, "completions", prompt=["Hello", "b", "Hello"], max_tokens=12)["choices"]
    assert [one["index"] for one in several] == [0, 1, 2]
    assert several[0]["text"] == several[2]["text"] == expected


def test_a_stream_is_the_answer_in_pieces(client):
    options = {"prompt": "Hello", "max_tokens": 20, "logprobs": 2, "temperature": 1, "seed": 3, "n": 2}
    whole = post(client, "completions", **options)
    *pieces, last = events(client, "completions", **options, stream_options={"include_usage": True})
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for choice in whole["choices"]:
        own = [one["choices"][0] for one in pieces if one["choices"][0]["index"] == choice["index"]]
        assert "".join(one["text"] for one in own) == choice["text"]
        assert [one["finish_reason"] for one in own][-1] == choice["finish_reason"]
        for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            assert sum((one["logprobs"][name] for one in own if one["logprobs"]), []) == choice["logprobs"][name]
    assert whole["choices"][0]["text"] != whole["choices"][1]["text"]


def test_a_chat_is_its_prompt_continued(client, served):
    ids = served["chat"].tokenizer.apply_chat_template(HELLO, add_generation_prompt=True)
    found = post(client, "chat/completions", messages=HELLO, max_tokens=9)
    assert found["choices"][0]["message"]["content"] == greedy(served, ids, 9)
    assert found["object"] == "chat.completion" and found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["prompt_tokens"] == len(ids) and found["usage"]["completion_tokens"] == 9
    pieces = events(client, "chat/completions", messages=HELLO, max_completion_tokens=9)
    deltas = [one["choices"][0]["delta"] for one in pieces]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(one.get("content", "") for one in deltas) == found["choices"][0]["message"]["content"]


def test_logprobs_of_a_chat(client):
    options = {"messages": HELLO, "max_tokens": 4, "logprobs": True, "top_logprobs": 3}
    found = post(client, "chat/completions", **options)["choices"][0]
    tokens = found["logprobs"]["content"]
    assert len(tokens) == 4 and all(len(one["top_logprobs"]) == 3 for one in tokens)
    text = b"".join(bytes(one["bytes"]) for one in tokens).decode("utf-8", "replace")
    assert text == found["message"]["content"]
    assert all(one["logprob"] == one["top_logprobs"][0]["logprob"] for one in tokens)  # greedy
    streamed = [one["choices"][0]["logprobs"] for one in events(client, "chat/completions", **options)]
    assert sum((one["content"] for one in streamed if one), []) == tokens


def test_stop_seed_penalties_and_bias(client):
    whole = post(client, "completions", prompt="Hello", max_tokens=20)["choices"][0]["text"]
    stop = whole[5:7]
    cut = post(client, "completions", prompt="Hello", max_tokens=20, stop=[stop])["choices"][0]
    assert cut["text"] == whole[: whole.index(stop)] and cut["finish_reason"] == "stop"
    drawn = [post(client, "completions", prompt="a", seed=5, temperature=1.5)["choices"][0]["text"] for _ in range(2)]
    assert drawn[0] == drawn[1]
    ids = client.post("/tokenize", json={"model": "chat", "prompt": "x"}).json()["tokens"]
    biased = post(client, "completions", prompt="Hello", max_tokens=3, logit_bias={str(ids[0]): 100})
    assert biased["choices"][0]["text"] == "xxx"
    penalised = {"prompt": "Hello", "max_tokens": 20, "frequency_penalty": 2, "presence_penalty": 2}
    assert len(set(post(client, "completions", **penalised)["choices"][0]["text"])) > len(set(whole))


@pytest.mark.parametrize(
    "options, fits",
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
        ({"guided_regex": "[ab]{3}"}, lambda text: len(text) == 3 and set(text) <= {"a", "b"}),
        ({"structured_outputs": {"grammar": 'start: "x" | "yy"'}}, lambda text: text in ("x", "yy")),
        ({"guided_json": {"enum": [1, 2]}}, lambda text: json.loads(text) in (1, 2)),
    ],
    ids=["choice", "regex", "grammar", "json"],
)
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_constraints(client, path, options, fits):
    given = {"prompt": "a"} if path == "completions" else {"messages": HELLO}
    choice = post(client, path, **given, **options, max_tokens=50, temperature=1, seed=1)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert fits(choice["text"] if path == "completions" else choice["message"]["content"])


def test_a_schema_as_response_format(client):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for i in range(3):
        options = {"messages": HELLO, "response_format": wanted, "max_tokens": 300, "temperature": 1, "seed": i}
        found = post(client, "chat/completions", **options)["choices"][0]
        if found["finish_reason"] == "stop":
            assert json.loads(found["message"]["content"])["a"] in (1, 2)
            return
    pytest.fail("no answer ended")


def test_forced_calls(client):
    options = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 400, "temperature": 1}
    seed = next(
        i
        for i in range(20)
        if post(client, "chat/completions", **options, seed=i)["choices"][0]["finish_reason"] == "tool_calls"
    )
    message = post(client, "chat/completions", **options, seed=seed)["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "weather" and json.loads(call["function"]["arguments"])["city"] in (
        "Oslo",
        "Rome",
    )
    assert message["content"] is None
    pieces = events(client, "chat/completions", **options, seed=seed)
    calls = [one for piece in pieces for one in piece["choices"][0]["delta"].get("tool_calls", [])]
    assert [(one["index"], one["function"]) for one in calls] == [(0, call["function"])]
    assert pieces[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "path, body, param",
    [
        ("completions", {"prompt": "a", "echo": True}, "echo"),
        ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": [99999]}, "prompt"),
        ("completions", {"prompt": "a", "max_tokens": 1 << 20}, "prompt"),
        ("completions", {"prompt": "a", "n": 200}, "n"),
        ("completions", {"prompt": "a", "temperature": 3}, "temperature"),
        ("completions", {"prompt": "a", "seed": 1 << 80}, "seed"),
        ("completions", {"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
        ("completions", {"prompt": "a", "logit_bias": {"99999": 1}}, "prompt"),
        ("completions", {"prompt": "a", "stop": ""}, "stop"),
        ("completions", {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        ("completions", {"prompt": "a", "guided_regex": "("}, "prompt"),
        ("completions", {"prompt": "a", "guided_regex": "a", "guided_choice": ["b"]}, "guided_regex"),
        ("completions", {"prompt": "a", "structured_outputs": {}}, "structured_outputs"),
        ("completions", {"prompt": "a", "messages": HELLO}, "messages"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "messages"),
        ("chat/completions", {"messages": [{"role": "king", "content": "a"}]}, "messages"),
        ("chat/completions", {"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"messages": HELLO, "max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ("chat/completions", {"messages": HELLO, "tool_choice": "required"}, "messages"),
        ("chat/completions", {"messages": HELLO, "functions": []}, "functions"),
        ("chat/completions", {"messages": HELLO, "response_format": {"type": "xml"}}, "response_format"),
        ("chat/completions", {"messages": HELLO, "modalities": ["audio"]}, "modalities"),
        ("chat/completions", {"messages": HELLO, "store": True}, "store"),
        ("chat/completions", {"messages": HELLO, "model": "embed"}, "model"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refusals_name_the_parameter(client, path, body, param):
    answer = client.post(f"/v1/{path}", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"].split(".")[0] == param, error


def test_without_a_number_of_tokens_there_is_the_servers(make_client):
    with make_client(default_max_tokens=7) as client:
        assert post(client, "chat/completions", messages=HELLO)["usage"]["completion_tokens"] == 7
