"""/tokenize and /detokenize, as vLLM's: texts or chats to tokens, and back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from transformer_fast.server.calls import Body, Call, Endpoint, json_response
from transformer_fast.server.endpoints.common import ModelName, TokenId
from transformer_fast.server.errors import bad_request
from transformer_fast.server.served import KINDS


class TokenizeBody(Body):
    model: (
        Annotated[str, Field(description="Name of a model of /v1/models; may be left out if it is the only one.")]
        | None
    ) = None
    prompt: str | None = Field(None, description="A text; or `messages`.")
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = Field(
        None, description="A chat, as in /v1/chat/completions."
    )
    tools: list[dict[str, Any]] | None = Field(None, description="With messages: what the model may call.")
    add_special_tokens: bool | None = Field(
        None, description="With prompt: add what the model expects around a text. Default: true."
    )
    add_generation_prompt: bool | None = Field(
        None, description="With messages: end with the beginning of an answer. Default: true."
    )
    return_token_strs: bool | None = Field(None, description="Give `token_strs`, too. Default: false.")


class TokenizeReply(BaseModel):
    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeBody(Body):
    model: ModelName = None
    tokens: list[TokenId]


class DetokenizeReply(BaseModel):
    prompt: str


async def tokenize(call: Call) -> Response:
    body: TokenizeBody = call.body
    model = call.model(body.model, *KINDS)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("needed: one of prompt and messages", "prompt")
    chats = {"tools": body.tools, "add_generation_prompt": body.add_generation_prompt}
    unfit = {"add_special_tokens": body.add_special_tokens} if body.prompt is None else chats
    for name, value in unfit.items():
        if value is not None:
            raise bad_request(f"{name} does not go with {'messages' if body.prompt is None else 'prompt'}", name)
    if body.messages is None:
        special = body.add_special_tokens is not False
        ids = await call.in_thread(_text_ids, model.tokenizer, body.prompt, special, param="prompt")
    else:
        if model.chat is None:
            raise bad_request(f"the model {model.name!r} has no chat template", "messages")
        generation = body.add_generation_prompt is not False
        ids = await call.in_thread(_chat_ids, model.tokenizer, body.messages, body.tools, generation, param="messages")
    names = [_name(model.tokenizer, one) for one in ids] if body.return_token_strs else None
    content = {"count": len(ids), "max_model_len": model.max_length, "tokens": ids, "token_strs": names}
    return json_response(content)


async def detokenize(call: Call) -> Response:
    body: DetokenizeBody = call.body
    model = call.model(body.model, *KINDS)
    size = _vocabulary(model.tokenizer)
    beyond = next((one for one in body.tokens if one >= size), None)
    if beyond is not None:
        raise bad_request(f"tokens has {beyond}; the vocabulary has {size} tokens", "tokens")
    text = await call.in_thread(model.tokenizer.decode, body.tokens, param="tokens")
    return json_response({"prompt": text.encode("utf-8", "replace").decode()})


def _text_ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=special).ids)


def _chat_ids(tokenizer: Any, messages: Any, tools: Any, generation: bool) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=generation))


def _inner(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` of a `files.tokenizer.Tokenizer`, or of a pipeline that has it as it is."""
    return getattr(tokenizer, "tokenizer", tokenizer)


def _vocabulary(tokenizer: Any) -> int:
    return _inner(tokenizer).get_vocab_size(with_added_tokens=True)


def _name(tokenizer: Any, token: int) -> str:
    return _inner(tokenizer).id_to_token(token) or ""


ENDPOINTS = (
    Endpoint(
        "/tokenize", tokenize, "Tokens of a text or a chat", body=TokenizeBody, reply=TokenizeReply, errors=(404, 504)
    ),
    Endpoint(
        "/detokenize", detokenize, "The text of tokens", body=DetokenizeBody, reply=DetokenizeReply, errors=(404, 504)
    ),
)
