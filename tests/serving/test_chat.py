"""serving/chat.py, answers.py and tool_calls.py: messages to prompts and constraints, texts of answers to messages."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from chat_templates import CHATML, HERMES_CALLS, LLAMA_CALLS, MISTRAL_CALLS, MISTRAL_NAMED_CALLS, TOOLS
from decoder_cases import write_byte_gpt2
from model_folders import write_json

library = pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

from transformer_fast.generation import Constraint, load_tokenizer  # noqa: E402
from transformer_fast.serving import AnswerParser, ChatFormat, Delta, tool_calls  # noqa: E402
from transformer_fast.serving.answers import CHANNELS, THINK  # noqa: E402

ADD = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": ADD}}
OTHER = {"type": "function", "function": {"name": "now"}}
USER = {"role": "user", "content": "2+2?"}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"]
TEMPLATES = {
    "hermes": (HERMES_CALLS, tool_calls.HERMES_STYLE),
    "llama": (LLAMA_CALLS, tool_calls.LLAMA_STYLE),
    "mistral": (MISTRAL_CALLS, tool_calls.MISTRAL_STYLE),
    "mistral_named": (MISTRAL_NAMED_CALLS, tool_calls.NAMED_MISTRAL_STYLE),
}


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """Template -> the ChatFormat of a tokenizer of bytes with it."""
    folder = write_byte_gpt2(tmp_path_factory.mktemp("chat"))
    made = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens(SPECIAL)
    made.save(str(folder / "tokenizer.json"))

    def make(template):
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
        write_json(folder / "tokenizer_config.json", config | ({} if template is None else {"chat_template": template}))
        return ChatFormat(load_tokenizer(folder))

    return make


def text_of(chat, prompt):
    return chat.tokenizer.decode(prompt.ids)


def test_messages_become_the_templates_text(chat):
    formed = chat(HERMES_CALLS)
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": None},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"id": "x1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}],
        },
        {"role": "tool", "tool_call_id": "x1", "content": "4"},
    ]
    before = json.dumps(messages)
    prompt = formed.prompt(messages)
    assert text_of(formed, prompt) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>\n<|im_start|>tool\n4<|im_end|>\n'
        "<|im_start|>assistant\n"
    )
    assert (prompt.constraint, prompt.stop, prompt.tools, prompt.thinking) == (None, (), (), False)
    assert json.dumps(messages) == before


def test_options_of_the_template(chat):
    formed = chat(HERMES_CALLS)
    assert text_of(formed, formed.prompt([USER], enable_thinking=False)).endswith("<think>\n\n</think>\n\n")
    prompt = formed.prompt([USER], thinks=True)
    assert prompt.thinking and text_of(formed, prompt).endswith("<think>\n")
    begun = formed.prompt([USER, {"role": "assistant", "content": "It is"}], continue_final_message=True)
    assert text_of(formed, begun).endswith("assistant\nIt is")
    with pytest.raises(ValueError, match="chat_template_kwargs has tokenize, which is set by the request itself"):
        formed.prompt([USER], tokenize=True)


@pytest.mark.parametrize(
    "messages, text",
    [
        ([], "messages is .*; needed: a list of at least one message"),
        ("hello", "messages is 'hello'; needed: a list"),
        ([{"content": "a"}], r"messages\[0\]: role is None; needed: one of system, developer, user"),
        ([{"role": "function", "content": "a"}], r"messages\[0\]: role is 'function'"),
        ([USER, {"role": "user"}], r"messages\[1\]: content is missing"),
        ([{"role": "user", "content": 5}], r"messages\[0\]: content is 5; needed: a text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\] is of type 'image_url', which is not"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\].text is None; needed: a string"),
        ([{"role": "assistant", "function_call": {"name": "a"}}], "function_call is given, which is not supported"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "tool_calls is given and role is user"),
        ([{"role": "assistant", "tool_calls": [{}]}], r"tool_calls\[0\] is .*; needed: an object with function.name"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}],
            r"tool_calls\[0\].function.arguments is '\{'; needed: the text of a JSON object",
        ),
        ([{"role": "tool", "content": "a"}], "tool_call_id is None; needed: the id of the call"),
        ([{"role": "user", "content": "a", "x": {1, 2}}], r"messages\[0\] holds a set; needed: texts"),
    ],
)
def test_malformed_messages(chat, messages, text):
    with pytest.raises(ValueError, match=text):
        chat(HERMES_CALLS).prompt(messages)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"tools": {}}, "tools is {}; needed: a list of functions"),
        ({"tools": [{"type": "web"}]}, r"tools\[0\] is {'type': 'web'}; needed: "),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "up to 64 letters"),
        ({"tools": [TOOL, TOOL]}, r"tools\[1\]: there are two of the name add"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 1}}]}, "parameters is 1; needed"),
        ({"tool_choice": "required"}, "tool_choice is 'required' and there are no tools"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice is 'any'; needed: auto, none, required, or"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice is {"),
        ({"response_format": {"type": "xml"}}, "response_format is .*; needed: an object whose type is one of"),
        ({"response_format": {"type": "json_schema"}}, "json_schema.schema is None; needed: a JSON schema"),
        (
            {"tools": [TOOL], "response_format": {"type": "json_object"}},
            "and tools are given, and an answer cannot follow both",
        ),
    ],
)
def test_malformed_options(chat, options, text):
    with pytest.raises(ValueError, match=text):
        chat(HERMES_CALLS).prompt([USER], **options)


def test_channels(chat):
    """gpt-oss: its special tokens are read, and then left out; what is not known of its form is refused."""
    formed = chat(CHATML + "{# <|channel|> #}")
    prompt = formed.prompt([USER])
    assert formed.parser(prompt=prompt).parse("<|channel|>analysis<|message|>a<|end|>b") == Delta("b", "a")
    with pytest.raises(ValueError, match="not supported for a chat template with channels"):
        formed.prompt([USER], response_format={"type": "json_object"})


def test_templates_that_do_not_fit(chat):
    with pytest.raises(ValueError, match="the model has no chat template"):
        chat(None).prompt([USER])
    with pytest.raises(ValueError, match="tools are given, and the model's chat template knows no tools; supported: "):
        chat(CHATML).prompt([USER], [TOOL])
    with pytest.raises(ValueError, match="writes calls in a form that is not known here"):
        chat(TOOLS).prompt([USER], [TOOL])
    assert "tools" not in text_of(chat(CHATML), chat(CHATML).prompt([USER], [TOOL], "none"))


def written(formed, prompt, seed):
    """What a model without any sense writes under the prompt's constraint."""
    state = prompt.constraint.start(formed.tokenizer, 300, [formed._special["<|im_end|>"]])
    rng, ids = np.random.default_rng(seed), []
    while not state.ended:
        allowed = np.flatnonzero(np.isfinite(state.apply(np.zeros(300, np.float32))))
        text = [number for number in allowed if number < 256 and formed.tokenizer.decode([number]).isspace()]
        ids.append(int(rng.choice([number for number in allowed if number not in text] or allowed)))
        state.accept(ids[-1])
        assert len(ids) < 2000
    return formed.tokenizer.decode(ids, skip_special_tokens=prompt.skip_special_tokens)


@pytest.mark.parametrize("name", TEMPLATES)
def test_forced_calls(chat, name):
    """The constraint of a call, the engine's option and the parser fit together."""
    pytest.importorskip("llguidance")
    template, style = TEMPLATES[name]
    formed = chat(template)
    seen = set()
    for seed in range(8):
        prompt = formed.prompt([USER], [TOOL, OTHER], "required")
        assert prompt.skip_special_tokens == (name == "hermes")
        delta = formed.parser(prompt=prompt).parse(written(formed, prompt, seed))
        assert (delta.content, len(delta.tool_calls)) == ("", 1)
        (call,) = delta.tool_calls
        seen.add(call.name)
        assert call.name == "now" or json.loads(call.arguments) in ({"a": 1}, {"a": 2})
        assert call.index == 0 and re.fullmatch("[A-Za-z0-9]{9}", call.id)
    assert seen == {"add", "now"}
    named = formed.prompt([USER], [TOOL, OTHER], {"type": "function", "function": {"name": "add"}})
    assert [call.name for call in formed.parser([TOOL], named).parse(written(formed, named, 0)).tool_calls] == ["add"]
    assert formed.prompt([USER], [TOOL]).constraint is None


def test_response_formats(chat):
    pytest.importorskip("llguidance")
    formed = chat(HERMES_CALLS)
    described = {"type": "json_schema", "json_schema": {"name": "n", "schema": ADD, "strict": True}}
    for format, holds in [
        (described, lambda text: json.loads(text) in ({"a": 1}, {"a": 2})),
        ({"type": "regex", "pattern": "(a/|b)c"}, lambda text: text in ("a/c", "bc")),
        ({"type": "grammar", "grammar": 'start: "x" | "y"'}, lambda text: text in "xy"),
    ]:
        assert holds(written(formed, formed.prompt([USER], response_format=format), 1))
        # Inside of reasoning it is the answer after it that is constrained.
        prompt = formed.prompt([USER], response_format=format, thinks=True)
        text = written_after_reasoning(formed, prompt)
        delta = formed.parser(prompt=prompt).parse(text)
        assert delta.reasoning_content == "any\nthing" and holds(delta.content)
    own = Constraint.choice(["a"])
    assert formed.prompt([USER], constraint=own).constraint == own
    with pytest.raises(ValueError, match="response_format and constraint are given"):
        formed.prompt([USER], response_format=described, constraint=own)
    assert formed.prompt([USER], response_format={"type": "text"}).constraint is None
    assert formed.prompt([USER], response_format={"type": "json_object"}).constraint is not None


def written_after_reasoning(formed, prompt):
    state = prompt.constraint.start(formed.tokenizer, 300, [formed._special["<|im_end|>"]])
    ids = formed.tokenizer.encode("any\nthing\n</think>\n\n", add_special_tokens=False).ids
    for number in ids:
        state.accept(number)
    while not state.ended:
        scores = state.apply(np.arange(300, 0, -1).astype(np.float32))
        spaces = [number for number in range(256) if formed.tokenizer.decode([number]).isspace()]
        scores[spaces] -= 1000
        ids.append(int(scores.argmax()))
        state.accept(ids[-1])
    return formed.tokenizer.decode(ids, skip_special_tokens=True)


_ADD, _NOW = ("add", {"a": "}</tool_call>;"}), ("now", {})
_CUT = '<tool_call>\n{"name": "add", "arguments": {"a": 1'
# Style, options of the parser, text, content, reasoning, calls.
ANSWERS = [
    (None, {}, "Hi <tool_call> [TOOL_CALLS] {}\n", "Hi <tool_call> [TOOL_CALLS] {}\n", "", []),
    (None, {"reasoning": THINK}, "<think>\na\n\nb\n</think>\n\nHi\n", "Hi\n", "a\n\nb", []),
    (None, {"thinking": True}, "a</think>b", "b", "a", []),
    (None, {"reasoning": THINK, "thinking": True}, "never ends </thin", "", "never ends </thin", []),
    (None, {"reasoning": THINK}, "So <think> is a tag</think>", "So <think> is a tag</think>", "", []),
    (
        None,
        {"reasoning": CHANNELS, "dropped": ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"]},
        "<|channel|>analysis<|message|>Sum.<|end|><|start|>assistant<|channel|>final<|message|>4.<|return|>",
        "4.",
        "Sum.",
        [],
    ),
    (None, {"reasoning": CHANNELS}, "<|channel|>final<|message|>4 assistants", "4 assistants", "", []),
    (None, {"dropped": ["<|eot_id|>"]}, "a<|eot_id|>b<|eot", "ab<|eot", "", []),
    (
        "hermes",
        {"reasoning": THINK},
        '<think>x</think>\n\nOk. \n<tool_call>\n{"name": "add", "arguments": {"a": "}</tool_call>;"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n',
        "Ok.",
        "x",
        [_ADD, _NOW],
    ),
    ("hermes", {}, _CUT, _CUT, "", []),
    ("hermes", {}, '<tool_call>{"name": "now"}', "", "", [_NOW]),
    ("hermes", {}, '<tool_call>{"name": "now"}</tool', "", "", [_NOW]),
    ("hermes", {}, '<tool_call>{"name": 5}</tool_call> b', '<tool_call>{"name": 5}</tool_call> b', "", []),
    ("hermes", {}, "<tool_call>add(1)</tool_call>", "<tool_call>add(1)</tool_call>", "", []),
    ("hermes", {}, '<tool_call>{"name": "now"} x', '<tool_call>{"name": "now"} x', "", []),
    ("hermes", {}, '<tool_call>{"name": "now", "arguments": "{}"}</tool_call>\nDone', "Done", "", [_NOW]),
    ("hermes", {}, "a <tool", "a <tool", "", []),
    ("hermes", {}, "[" * 5000, "[" * 5000, "", []),
    ("hermes", {}, "<tool_call>" + "[" * 5000, "<tool_call>" + "[" * 5000, "", []),
    ("llama", {}, '{"name": "add", "parameters": {"a": "}</tool_call>;"}}', "", "", [_ADD]),
    ("llama", {}, '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "now"}', "", "", [_NOW, _NOW]),
    ("llama", {"dropped": ["<|eom_id|>"]}, '\n{"name": "now"}<|eom_id|>', "", "", [_NOW]),
    ("llama", {}, '{"city": "x"} is JSON', '{"city": "x"} is JSON', "", []),
    ("llama", {}, "{not JSON}", "{not JSON}", "", []),
    ("llama", {}, 'See {"name": "now"}', 'See {"name": "now"}', "", []),
    ("llama", {}, '<|python_tag|>f.call(q="x")', '<|python_tag|>f.call(q="x")', "", []),
    ("llama", {}, "  \n", "  \n", "", []),
    ("mistral", {}, '[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "now"}]', "", "", [_NOW, _NOW]),
    ("mistral", {}, '[TOOL_CALLS][{"name": "now"}', '[TOOL_CALLS][{"name": "now"}', "", []),
    ("mistral", {}, "[TOOL_CALLS]", "[TOOL_CALLS]", "", []),
    ("mistral", {}, "a[TOOL_CALLS][5]", "a[TOOL_CALLS][5]", "", []),
    ("mistral_named", {}, "Ok[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[CALL_ID]x1[ARGS]{}", "Ok", "", [_NOW, _NOW]),
    ("mistral_named", {}, "[TOOL_CALLS]now[ARGS]", "[TOOL_CALLS]now[ARGS]", "", []),
    ("mistral_named", {}, "[TOOL_CALLS]now, please", "[TOOL_CALLS]now, please", "", []),
]


@pytest.mark.parametrize("style, options, text, content, reasoning, calls", ANSWERS)
def test_answers(style, options, text, content, reasoning, calls):
    """As a whole, letter by letter and in pieces of all kinds."""
    style = None if style is None else TEMPLATES[style][1]
    rng = random.Random(0)
    cuts = [[text], list(text)]
    for _ in range(20 if len(text) < 300 else 1):
        places = sorted(rng.sample(range(len(text) + 1), min(rng.randint(1, 9), len(text))))
        cuts.append([text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)])
    for pieces in cuts:
        parser = AnswerParser(style, **options)
        deltas = [*map(parser.feed, pieces), parser.end()]
        found = [call for delta in deltas for call in delta.tool_calls]
        assert "".join(delta.content for delta in deltas) == content
        assert "".join(delta.reasoning_content for delta in deltas) == reasoning
        assert [(call.name, json.loads(call.arguments)) for call in found] == calls
        assert [call.index for call in found] == list(range(len(calls))) and tuple(found) == parser.tool_calls


def test_plain_text_is_not_held_back():
    parser = AnswerParser(tool_calls.HERMES_STYLE, reasoning=THINK)
    assert [parser.feed(piece) for piece in ("He", "llo", " <", "b>")] == [
        Delta("He"),
        Delta("llo"),
        Delta(),
        Delta(" <b>"),
    ]
    assert not parser.end()


def test_special_tokens_of_a_format(chat):
    """Whether the engine has to keep them, and what the parser then leaves out."""
    llama = chat(LLAMA_CALLS)
    prompt = llama.prompt([USER], [TOOL])
    assert not prompt.skip_special_tokens and llama.prompt([USER]).skip_special_tokens
    assert llama.parser(prompt=prompt).parse('<|python_tag|>{"name": "now"}<|eot_id|>').content == ""
    assert llama.parser(prompt=prompt).parse("Hi<|eot_id|>") == Delta("Hi")
