"""Chat templates for tests, in the styles that models have, and conversations with what becomes of them.

test_chat.py compares with the texts below, oracle/test_chat.py with what transformers makes of the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
HELLO = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello <b>you</b> "},
    {"role": "assistant", "content": " Hi! "},
    {"role": "user", "content": "2+2?"},
]
NO_SYSTEM = HELLO[1:]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"a": "number", "ü": ["<", "&"]}}}
CALL = [
    {"role": "user", "content": "2+2?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning": "I add.",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}],
    },
    {"role": "tool", "content": "4", "name": "add"},
]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}]}]

CHATML = """{% for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- set today = strftime_now('%d') if strftime_now is defined else '' %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' ~ message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """{{ bos_token }}{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate, beginning with user') }}{% endif %}
{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}
{%- elif message.role == 'assistant' %}{{ ' ' + message.content.strip() + eos_token }}
{%- endif %}{% endfor %}"""

GEMMA = """{{ bos_token }}
{%- set ns = namespace(first='') -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}{%- set ns.first = message.content + '\\n\\n' -%}{%- continue -%}{%- endif -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    <start_of_turn>{{ role }}
    {{- '\\n' + ns.first + (message.content | trim) }}<end_of_turn>
    {{- '\\n' }}
    {%- set ns.first = '' -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<start_of_turn>model{{ '\\n' }}{%- endif -%}"""

TOOLS = """{%- macro shown(value) -%}{{ value | tojson }}{%- endmacro -%}
{%- if tools %}{{ tools | tojson(indent=2) }}
{% endif %}
{%- for message in messages %}
{%- if message.reasoning_content is defined %}<think>{{ message.reasoning_content }}</think>{% endif %}
{%- if message.content is defined %}{{ message.role }}: {{ message.content }};{% endif %}
{%- for call in message.tool_calls or [] %}{{ shown(call.function) }}{% endfor %}
{%- endfor %}"""

REASONING = """{% for m in messages %}{{ m.role }}({% if enable_thinking %}{{ m.thinking or '' }}|{% endif -%}
{{ m.content or '' }}){% endfor %}"""

GENERATION = """{% for m in messages %}
{% if m.role == 'assistant' %}
A: {% generation %}{% set end = '!' %}{{ m.content | trim }}{{ end }}
{% endgeneration %}
{{ end }}
{% else %}
Q: {{ m.content }}
{% endif %}
{% endfor %}"""

PART_LOOP = """{% for m in messages %}{{ m.role }}:
{%- if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}
{%- if part.type == 'text' %}{{ part.text }}{% else %}<{{ part.type }}>{% endif %}{% endfor %}{% endif %}
{{ eos_token }}{% endfor %}"""

BREAKS = """{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role[0] | upper }}{% endfor %}
{{- messages | length }}{{ dict(a=1)['a'] }}{{ missing }}{{ unk_token }}
    {# an indented comment #}
    {% set _ = 1 %}
{{ messages | map(attribute='role') | join(',') }}"""

SORTED = """{{ tools | tojson(sort_keys=true, separators=(',', ':')) }}{{ documents | tojson(ensure_ascii=true) }}"""

# The forms in which models write calls of tools; tests/serving/test_chat.py.
HERMES_CALLS = """{% if tools %}Tools: {{ tools | tojson }}
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}
<tool_call>
{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% elif thinks %}<think>
{% endif %}{% endif %}"""

LLAMA_CALLS = """{% if tools %}Answer {"name": function name, "parameters": dictionary}: {{ tools | tojson }}
{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{% if m.tool_calls %}<|python_tag|>{% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}
{% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""

MISTRAL_CALLS = """{% for m in messages %}
{%- if m.role == 'user' %}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
[INST]{{ m.content }}[/INST]
{%- elif m.tool_calls %}[TOOL_CALLS]{{ m.tool_calls | map(attribute='function') | list | tojson }}
{%- else %}{{ m.content }}{% endif %}{% endfor %}"""

MISTRAL_NAMED_CALLS = MISTRAL_CALLS.replace("[AVAILABLE_TOOLS]", "[TOOL_CALLS]name[ARGS]")


@dataclasses.dataclass
class Case:
    template: str
    messages: Any
    expected: str
    options: dict = dataclasses.field(default_factory=dict)


_PROMPT = {"add_generation_prompt": True}
_CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello <b>you</b> <|im_end|>\n"
_CHATML += "<|im_start|>assistant\n Hi! <|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
_LLAMA3 = "<s><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
_LLAMA3 += "Hello <b>you</b><|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
_LLAMA3 += "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
_GEMMA = "<s><start_of_turn>user\n{}Hello <b>you</b><end_of_turn>\n<start_of_turn>model\nHi!<end_of_turn>\n"
_GEMMA += "<start_of_turn>user\n2+2?<end_of_turn>\n"
_SCHEMA = '[\n  {\n    "type": "function",\n    "function": {\n      "name": "add",\n      "parameters": {\n        '
_SCHEMA += '"a": "number",\n        "ü": [\n          "<",\n          "&"\n        ]\n      }\n    }\n  }\n]\n'
_CALL = 'user: 2+2?;<think>I add.</think>{"name": "add", "arguments": {"a": 2}}tool: 4;'

CASES = {
    "chatml": Case(CHATML, HELLO, _CHATML),
    "chatml_prompt": Case(CHATML, HELLO, _CHATML + "<|im_start|>assistant\n", _PROMPT),
    "chatml_without_system": Case(
        CHATML, NO_SYSTEM, "<|im_start|>system\nYou help.<|im_end|>\n" + _CHATML.partition("<|im_end|>\n")[2]
    ),
    "llama3": Case(LLAMA3, HELLO, _LLAMA3.format("Be brief.")),
    "llama3_prompt": Case(
        LLAMA3, NO_SYSTEM, _LLAMA3.format("") + "<|start_header_id|>assistant<|end_header_id|>\n\n", _PROMPT
    ),
    "mistral": Case(MISTRAL, NO_SYSTEM, "<s>[INST] Hello <b>you</b>  [/INST] Hi!</s>[INST] 2+2? [/INST]"),
    "gemma": Case(GEMMA, HELLO, _GEMMA.format("Be brief.\n\n") + "<start_of_turn>model\n", _PROMPT),
    "gemma_without_system": Case(GEMMA, NO_SYSTEM, _GEMMA.format("")),
    "tools": Case(TOOLS, CALL, _SCHEMA + _CALL, {"tools": [TOOL]}),
    "no_tools": Case(TOOLS, CALL, _CALL),
    "reasoning": Case(REASONING, CALL, "user(|2+2?)assistant(I add.|)tool(|4)", {"enable_thinking": True}),
    "no_reasoning": Case(REASONING, CALL, "user(2+2?)assistant()tool(4)"),
    "generation": Case(GENERATION, NO_SYSTEM, "Q: Hello <b>you</b> \nA: Hi!!\n\nQ: 2+2?\n"),
    "parts": Case(PART_LOOP, PARTS, "user:ab </s>"),
    "breaks": Case(BREAKS, HELLO, "SU41\nsystem,user,assistant,user"),
    "sorted": Case(
        SORTED,
        NO_SYSTEM,
        '[{"function":{"name":"add","parameters":{"a":"number","ü":["<","&"]}},"type":"function"}]'
        '[{"title": "\\u00fc"}]',
        {"tools": [TOOL], "documents": [{"title": "ü"}]},
    ),
    "continued": Case(
        CHATML, HELLO[:3], _CHATML.partition("<|im_end|>\n<|im_start|>user\n2")[0], {"continue_final_message": True}
    ),
    "continued_trimmed": Case(
        LLAMA3,
        HELLO[:3],
        _LLAMA3.format("Be brief.").partition("<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n2")[0],
        {"continue_final_message": True},
    ),
    "continued_parts": Case(PART_LOOP, PARTS, "user:ab ", {"continue_final_message": True}),
    "continued_reasoning": Case(
        REASONING,
        CALL[:2],
        "user(|2+2?)assistant(I add.",
        {"continue_final_message": "reasoning", "enable_thinking": True},
    ),
}
