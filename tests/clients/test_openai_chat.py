"""The official `openai` client: chat, completions, streams, tools and constrained answers.

The model's weights are random, so that only constraints make sense of what it says; all schemas here are of bounded
length, so that its answers end.
"""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import pytest

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
GREEDY = {"model": "chat", "messages": ASK, "temperature": 0, "max_tokens": 24}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}, "celsius": {"type": "boolean"}},
            "required": ["city", "celsius"],
            "additionalProperties": False,
        },
    },
}


def prompt(local) -> list[int]:
    return list(local.tokenizer.apply_chat_template(ASK, add_generation_prompt=True))


def generated(local, ids, new: int, **options) -> list[int]:
    return local.model.generate([ids], max_new_tokens=new, **options)[0].tolist()[len(ids) :]


def test_greedy_tokens_are_those_of_generate(client, local):
    answer = client.chat.completions.create(**GREEDY)
    expected = generated(local, prompt(local), 24, do_sample=False)
    choice = answer.choices[0]
    assert choice.message.content == local.tokenizer.decode(expected, skip_special_tokens=True)
    assert (choice.message.role, choice.finish_reason, answer.object) == ("assistant", "length", "chat.completion")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt(local)), 24)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_answer_in_pieces(client):
    whole = client.chat.completions.create(**GREEDY)
    chunks = list(client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "length" and set(reasons[:-1]) == {None}
    assert chunks[-1].usage.model_dump(exclude_none=True) == whole.usage.model_dump(exclude_none=True)
    assert len(chunks) > 5 and len({chunk.id for chunk in chunks}) == 1


def test_the_stream_helper_of_the_client(client):
    pydantic = pytest.importorskip("pydantic")

    class Animal(pydantic.BaseModel):
        kind: Literal["cat", "dog"]

    with client.chat.completions.stream(**GREEDY | {"max_tokens": 100}, response_format=Animal) as stream:
        seen = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion().choices[0].message
    assert seen == final.content and isinstance(final.parsed, Animal)


def test_seed_and_n(client):
    sampled = GREEDY | {"temperature": 1.2, "seed": 7, "n": 3}
    first, second = (client.chat.completions.create(**sampled) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3 and [choice.index for choice in first.choices] == [0, 1, 2]
    other = client.chat.completions.create(**sampled | {"seed": 8})
    assert texts != [choice.message.content for choice in other.choices]


def test_stop_and_logit_bias(client, local):
    whole = client.chat.completions.create(**GREEDY).choices[0].message.content
    stop = whole[6:8]
    cut = client.chat.completions.create(**GREEDY, stop=[stop, "never said"])
    assert cut.choices[0].message.content == whole[: whole.index(stop)] and cut.choices[0].finish_reason == "stop"
    letter = local.tokenizer.encode("a").ids[-1]
    only = client.chat.completions.create(**GREEDY | {"max_tokens": 5}, logit_bias={str(letter): 100})
    assert only.choices[0].message.content == "aaaaa"


def test_logprobs(client):
    answer = client.chat.completions.create(**GREEDY | {"max_tokens": 6}, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == 6 and all(len(token.top_logprobs) == 3 for token in content)
    for token in content:  # greedy: the chosen one is the likeliest
        assert token.logprob == token.top_logprobs[0].logprob == max(top.logprob for top in token.top_logprobs) <= 0
    assert (
        bytes(b for token in content for b in token.bytes)
        .decode("utf-8", "replace")
        .startswith(answer.choices[0].message.content[:1])
    )


def test_parse_makes_a_pydantic_object(client):
    pydantic = pytest.importorskip("pydantic")

    class Animal(pydantic.BaseModel):
        kind: Literal["cat", "dog"]
        tame: bool
        age: Literal[1, 2, 3]

    done = client.chat.completions.parse(model="chat", messages=ASK, response_format=Animal, max_tokens=200)
    assert isinstance(done.choices[0].message.parsed, Animal) and done.choices[0].finish_reason == "stop"


def test_json_object(client):
    """The model does not end by itself, but what it has said is the start of an object."""
    done = client.chat.completions.create(**GREEDY, response_format={"type": "json_object"})
    assert done.choices[0].message.content.lstrip().startswith("{")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=["any", "named"]
)
def test_tool_calls(client, choice):
    options = GREEDY | {"max_tokens": 200, "tools": [WEATHER], "tool_choice": choice}
    done = client.chat.completions.create(**options).choices[0]
    call = done.message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "weather") and call.id
    assert done.finish_reason in ("tool_calls", "stop")
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Oslo", "Rome") and isinstance(arguments["celsius"], bool)
    # The next turn: the call and its result go back as the client has them.
    messages = [*ASK, done.message, {"role": "tool", "tool_call_id": call.id, "content": "12"}]
    assert client.chat.completions.create(**options | {"messages": messages, "tool_choice": "none"}).choices


def test_tool_calls_in_a_stream(client):
    options = GREEDY | {"max_tokens": 200, "tools": [WEATHER], "tool_choice": "required"}
    whole = client.chat.completions.create(**options).choices[0].message.tool_calls[0]
    with client.chat.completions.stream(**options) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == whole.function.arguments
    assert final.message.tool_calls[0].function.name == "weather"


@pytest.mark.parametrize("given", ["text", "tokens", "list"])
def test_completions(client, local, given):
    ids = local.tokenizer.encode("the cat").ids
    forms = {"text": "the cat", "tokens": list(ids), "list": ["the cat", "a dog"]}
    answer = client.completions.create(model="chat", prompt=forms[given], max_tokens=12, temperature=0)
    expected = local.tokenizer.decode(generated(local, ids, 12, do_sample=False), skip_special_tokens=True)
    assert answer.choices[0].text == expected and answer.object == "text_completion"
    assert len(answer.choices) == (2 if given == "list" else 1)


def test_completions_stream_and_logprobs(client):
    options = {"model": "chat", "prompt": "the cat", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**options, logprobs=2)
    assert len(whole.choices[0].logprobs.tokens) == len(whole.choices[0].logprobs.token_logprobs) == 8
    pieces = client.completions.create(**options, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


def test_a_stream_that_is_left_ends_in_the_server(aclient, server):
    """The next answers come, and nothing stays in flight."""
    import httpx

    async def ask():
        async with aclient() as client:
            for _ in range(4):
                stream = await client.chat.completions.create(**GREEDY | {"max_tokens": 2000}, stream=True)
                async for _ in stream:
                    break
                await stream.close()
            return await client.chat.completions.create(**GREEDY)

    assert asyncio.run(ask()).choices[0].message.content
    assert httpx.get(f"{server.url}/health").status_code == 200
