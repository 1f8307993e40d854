"""Parameters of a generation that chats and completions have in common, and what of the engine they become.

Names and meanings are OpenAI's; extensions have vLLM's. A new parameter is a field of `SamplingBody` and a line of
`engine_options`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from transformer_fast.server.calls import Body
from transformer_fast.server.endpoints.common import Labelled, ModelName
from transformer_fast.server.errors import bad_request, engine_errors
from transformer_fast.server.served import Served

_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=1, lt=1 << 31)]
_Stop = Annotated[str, Field(min_length=1, max_length=1000)]
MOST_CHOICES = 128  # OpenAI's limit of n


class StreamOptions(Body):
    include_usage: bool | None = Field(None, description="A last event has `usage`.")
    include_obfuscation: Literal[False] | None = Field(None, description="Padding of events: not done.")


class StructuredOutputs(Body):
    """What an answer has to be; exactly one of these."""

    json_: dict[str, Any] | str | None = Field(None, alias="json", description="A JSON schema.")
    regex: str | None = Field(None, description="A regular expression that all of the answer matches.")
    choice: Annotated[list[str], Field(min_length=1)] | None = Field(None, description="One of these texts.")
    grammar: str | None = Field(None, description="A grammar in Lark's form, or in GBNF.")
    json_object: bool | None = Field(None, description="Any JSON object.")


class SamplingBody(Labelled):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: ModelName = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None,
        description="0: the likeliest token each time. Without temperature, top_p, top_k, min_p and seed the model's"
        " generation_config.json decides; the likeliest token each time where it says nothing.",
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Choose among the likeliest that make up so much."
    )
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = Field(None, description="Answers. Default: 1.")
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = Field(
        None, description="The same answer each time, whatever else runs; the i-th of n answers has seed + i."
    )
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = Field(
        None, description="Texts that end the answer, and are no part of it."
    )
    stream: bool | None = Field(None, description="Answer by server-sent events.")
    stream_options: StreamOptions | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = (
        Field(None, description="Token -> what is added to its logit.")
    )
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = Field(
        None, description="Extension: choose among the k likeliest; 0 or -1: among all."
    )
    min_p: _Share | None = Field(
        None, description="Extension: only tokens at least so likely as this share of the likeliest."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="Extension: as transformers' option, over prompt and answer."
    )
    min_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = Field(
        None, description="Extension: of the answer, at least."
    )
    include_stop_str_in_output: bool | None = Field(None, description="Extension: keep the text of `stop`.")
    structured_outputs: StructuredOutputs | None = Field(None, description="Extension: constrain the answer.")
    guided_json: dict[str, Any] | str | None = Field(None, description="Older name of structured_outputs.json.")
    guided_regex: str | None = Field(None, description="Older name of structured_outputs.regex.")
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Older name of structured_outputs.choice."
    )
    guided_grammar: str | None = Field(None, description="Older name of structured_outputs.grammar.")

    @field_validator("logit_bias")
    @classmethod
    def _few(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and len(value) > 4096:
            raise ValueError("at most 4096 tokens can have a bias")
        return value


class PromptDetails(BaseModel):
    cached_tokens: int = Field(description="Of the prompt, found in memory.")


class GenerationUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None


def engine_options(body: SamplingBody) -> dict[str, Any]:
    """What `LanguageEngine.submit` gets of these parameters; `seed` is that of the first answer."""
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options goes with stream: true", "stream_options")
    chosen = {"temperature": body.temperature, "top_p": body.top_p, "min_p": body.min_p, "seed": body.seed}
    if body.top_k is not None:
        chosen["top_k"] = max(body.top_k, 0)
    options = {name: value for name, value in chosen.items() if value is not None}
    if options.get("temperature") == 0:
        options = {"do_sample": False}
    elif options:
        options["do_sample"] = True
    further = {
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "repetition_penalty": body.repetition_penalty,
        "min_new_tokens": body.min_tokens,
        "include_stop": body.include_stop_str_in_output,
        "logit_bias": body.logit_bias and {int(token): bias for token, bias in body.logit_bias.items()},
    }
    return options | {name: value for name, value in further.items() if value is not None}


def new_tokens(model: Served, prompt: Sequence[int], asked: int | None, default: int) -> int:
    """The most tokens of an answer: those asked for, else the default or what is left of the model's length."""
    return max(1, min(default, model.max_length - len(prompt))) if asked is None else asked


def stop_strings(body: SamplingBody) -> tuple[str, ...]:
    return () if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def constraint_of(body: SamplingBody) -> Any:
    """The `Constraint` of structured_outputs or its older names; None without one. It does not compile it.

    Raises:
        ApiError: there are several, one is malformed, or llguidance is missing.
    """
    asked: dict[str, Any] = {f"guided_{name}": getattr(body, f"guided_{name}") for name in _GUIDED}
    if body.structured_outputs is not None:
        asked |= {
            f"structured_outputs.{name}": value
            for name, value in body.structured_outputs.model_dump(by_alias=True).items()
        }
    asked = {name: value for name, value in asked.items() if value is not None and value is not False}
    if not asked:
        if body.structured_outputs is not None:
            raise bad_request("structured_outputs says nothing", "structured_outputs")
        return None
    if len(asked) > 1:
        raise bad_request(f"needed: one of {', '.join(asked)}", next(iter(asked)))
    ((name, value),) = asked.items()
    from transformer_fast.generation import Constraint

    made = {"json": Constraint.json_schema, "regex": Constraint.regex, "choice": Constraint.choice}
    made |= {"grammar": Constraint.grammar, "json_object": lambda _: Constraint.json_object()}
    with engine_errors(name):
        return made[name.split(".")[-1].removeprefix("guided_")](value)


_GUIDED = ("json", "regex", "choice", "grammar")
