"""Bodies and answers of /v1/chat/completions, as OpenAI's; `chat` reads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from transformer_fast.server.calls import Body
from transformer_fast.server.endpoints.sampling import GenerationUsage, SamplingBody

_Name = Annotated[str, Field(pattern=r"^[\w.-]{1,128}$")]


class Function(Body):
    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="The JSON schema of its arguments.")
    strict: bool | None = Field(None, description="Accepted: forced calls fit their schema in any case.")


class Tool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: _Name


class ToolName(Body):
    type: Literal["function"]
    function: FunctionName


class JsonSchema(Body):
    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="Accepted: answers fit the schema in any case.")


class TextFormat(Body):
    type: Literal["text", "json_object"]


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatBody(SamplingBody):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] = Field(
        description="role (system, developer, user, assistant, tool) and content, a text or parts of the type text."
    )
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = Field(None, description="Older name of the next one.")
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = Field(
        None, description="Tokens of an answer. Default: --default-max-tokens, or what the model's length leaves."
    )
    logprobs: bool | None = Field(None, description="Log probabilities of the tokens, before all options.")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="Of so many likeliest ones, too.")
    response_format: TextFormat | SchemaFormat | None = Field(None, description="What the answer's text has to be.")
    tools: list[Tool] | None = Field(None, description="What the model may call.")
    tool_choice: Literal["none", "auto", "required"] | ToolName | None = Field(
        None, description="required, or a function's name: the answer is a call that fits its schema."
    )
    parallel_tool_calls: bool | None = Field(None, description="false: of several calls, the first alone is given.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Extension: names that the model's template knows, as enable_thinking."
    )
    metadata: dict[str, str] | None = Field(None, description="Accepted, without effect.")
    store: Literal[False] | None = Field(None, description="Nothing is stored.")
    safety_identifier: str | None = Field(None, description="Accepted, without effect.")
    prompt_cache_key: str | None = Field(None, description="Accepted, without effect: equal beginnings are found.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="Accepted, without effect.")
    modalities: list[Literal["text"]] | None = Field(None, description="Answers are texts.")


class TokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[ContentLogprob]


class CalledFunction(BaseModel):
    name: str
    arguments: str


class CalledTool(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class Message(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChatChoice(BaseModel):
    index: int
    message: Message
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatReply(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: GenerationUsage
