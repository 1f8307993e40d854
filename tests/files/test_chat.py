"""files/tokenizer/chat.py: what becomes of messages, written out; where templates come from; what they may not do."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from chat_templates import CALL, CASES, CHATML, HELLO, MISTRAL, NO_SYSTEM, TOKENS, TOOL
from gguf_files import write_gguf
from model_folders import write_json
from subprocesses import printed

import transformer_fast
from transformer_fast.files.errors import CheckpointError
from transformer_fast.generation import load_tokenizer as of_generation
from transformer_fast.tokenization import Tokenizer, load_tokenizer, read_tokenizer

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder of bytes as tokens, and the special ones, which stand around each text."""
    folder = tmp_path_factory.mktemp("chat")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    found = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    found.add_special_tokens([*TOKENS.values(), "<|im_end|>"])
    single, special = "<s> $A </s>", [("<s>", 256), ("</s>", 257)]
    found.post_processor = tokenizers.processors.TemplateProcessing(single=single, special_tokens=special)
    found.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", {"model_type": "gpt2"})
    return folder


def folder_of(plain, path, **options):
    shutil.copytree(plain, path)
    write_json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS, **options})
    return path


@pytest.fixture(scope="module")
def tokenizer(plain, tmp_path_factory):
    return load_tokenizer(folder_of(plain, tmp_path_factory.mktemp("model") / "a"))


@pytest.mark.parametrize("name", CASES)
def test_texts(tokenizer, name):
    case = CASES[name]
    before = repr(case.messages)
    text = tokenizer.apply_chat_template(case.messages, case.template, tokenize=False, **case.options)
    assert text == case.expected
    ids = tokenizer.apply_chat_template(case.messages, case.template, **case.options)
    assert ids == tokenizer.encode(text, add_special_tokens=False).ids and tokenizer.decode(ids) == text
    assert repr(case.messages) == before


def test_several_conversations(tokenizer):
    several = tokenizer.apply_chat_template([HELLO, NO_SYSTEM], CHATML, tokenize=False)
    assert several == [tokenizer.apply_chat_template(one, CHATML, tokenize=False) for one in (HELLO, NO_SYSTEM)]
    assert tokenizer.apply_chat_template([HELLO], CHATML) == [tokenizer.apply_chat_template(HELLO, CHATML)]


def test_numbers_of_numpy_and_kinds_of_texts(tokenizer):
    class Text(str):
        def __str__(self):
            return "other"

    chat = [{"role": Text("user"), "content": (np.float32(0.5), np.int64(3), np.bool_(False))}]
    template = "{{ messages[0].role }}{{ messages[0].content }}"
    assert tokenizer.apply_chat_template(chat, template, tokenize=False) == "user[0.5, 3, False]"


def test_tokens_of_the_model_and_of_the_caller(tokenizer):
    template = "{{ bos_token }}{{ eos_token }}{{ pad_token }}"
    assert tokenizer.apply_chat_template(HELLO, template, tokenize=False) == "<s></s>"
    assert tokenizer.apply_chat_template(HELLO, template, tokenize=False, eos_token="!", pad_token="?") == "<s>!?"


def test_date(tokenizer):
    text = tokenizer.apply_chat_template(HELLO, "{{ strftime_now('%Y-%m-%d') }}", tokenize=False)
    assert time.strptime(text, "%Y-%m-%d").tm_year >= 2024


def test_many_threads(tokenizer):
    cases = list(CASES.values()) * 4
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(
            lambda case: tokenizer.apply_chat_template(case.messages, case.template, tokenize=False, **case.options),
            cases,
        )
        assert list(texts) == [case.expected for case in cases]


# --- where templates come from ----------------------------------------------------------------------------------------

NAMED = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}]


@pytest.mark.parametrize(
    ("told", "files", "expected"),
    [
        ("one", {}, {"default": "one"}),
        (NAMED, {}, {"default": "D", "tool_use": "T", "rag": "R"}),
        (None, {"chat_template.jinja": "ü"}, {"default": "ü"}),
        (NAMED, {"chat_template.jinja": "file"}, {"default": "file"}),
        (
            None,
            {
                "chat_template.jinja": "a",
                "additional_chat_templates/rag.jinja": "b",
                "additional_chat_templates/x.txt": "c",
            },
            {"default": "a", "rag": "b"},
        ),
        (None, {}, {}),
    ],
)
def test_files(plain, tmp_path, told, files, expected):
    folder = folder_of(plain, tmp_path / "a", **({} if told is None else {"chat_template": told}))
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    assert load_tokenizer(folder).chat_templates == expected


@pytest.mark.parametrize("templates", [NAMED, NAMED[:1]])
def test_gguf(tmp_path, templates):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "llama")
    writer.add_chat_template(templates)
    keys = {"tokenizer.chat_template": "D"}
    if len(templates) > 1:
        keys |= {"tokenizer.chat_template.rag": "R", "tokenizer.chat_template.tool_use": "T"}
    written = {
        key: value.value for key, value in writer.kv_data[0].items() if key.startswith("tokenizer.chat_template.")
    }
    assert written.items() <= keys.items()
    alphabet = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "aa"]
    keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": alphabet}
    keys |= {"tokenizer.ggml.merges": ["a a"], "llama.context_length": 8, "llama.embedding_length": 8}
    keys |= {"llama.block_count": 1, "llama.feed_forward_length": 8, "llama.attention.head_count": 2}
    keys |= {"llama.attention.layer_norm_rms_epsilon": 1e-5}
    table = {"token_embd.weight": np.zeros((257, 8), np.float32)}
    found = load_tokenizer(write_gguf(tmp_path / "a.gguf", "llama", keys, table))
    assert found.chat_templates == {one["name"]: one["template"] for one in templates}
    assert found.apply_chat_template(HELLO) == found.encode("D").ids


def test_which_of_several(plain, tmp_path):
    found = load_tokenizer(folder_of(plain, tmp_path / "a", chat_template=NAMED))
    results = [found.apply_chat_template(HELLO, name, tokenize=False) for name in (None, "rag", "{{ 1 + 1 }}")]
    assert results == ["D", "R", "2"]
    assert found.apply_chat_template(HELLO, tools=[TOOL], tokenize=False) == "T"
    other = load_tokenizer(folder_of(plain, tmp_path / "b", chat_template=NAMED[1:]))
    with pytest.raises(ValueError, match="chat_template is None; needed: one of the model's, rag, tool_use"):
        other.apply_chat_template(HELLO)


def test_one_function_by_its_names():
    assert transformer_fast.load_tokenizer is load_tokenizer is of_generation is read_tokenizer


def test_loads_what_the_folder_has(plain):
    found = load_tokenizer(plain)
    assert isinstance(found, Tokenizer) and found.encode("a", "b").ids[-1] == found.tokenizer.token_to_id("b")


@pytest.mark.parametrize("told", [3, [{"name": "a"}], {"a": 1}, [{"name": "a", "template": 1}]])
def test_malformed_templates(plain, tmp_path, told):
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: chat_template is .*; needed: a template"):
        load_tokenizer(folder_of(plain, tmp_path / "a", chat_template=told))


def test_a_template_that_is_no_text(plain, tmp_path):
    folder = folder_of(plain, tmp_path / "a")
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: not UTF-8"):
        load_tokenizer(folder)


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [
    (HELLO, MISTRAL, {}, ValueError, "refuses the messages: Roles must alternate, beginning with user"),
    (HELLO, "{% if %}", {}, ValueError, "the chat template is malformed: .* in line 1"),
    (HELLO, "{{ messages[9].role }}", {}, ValueError, "refuses the messages: .*no element 9"),
    (HELLO, "{{ 'a' + 1 }}", {}, ValueError, "refuses the messages: can only concatenate str"),
    (HELLO, None, {}, ValueError, r"tokenizer_config\.json: there is no chat_template; needed: one there"),
    ([], "a", {}, ValueError, "messages is empty; needed: at least one message"),
    (["a"], "a", {}, TypeError, r"messages\[0\] is 'a'; needed: a mapping with role and content"),
    ([{"role": "user", "content": object()}], "a", {}, TypeError, r"messages\[0\] holds a object; needed: texts"),
    (HELLO, "a", {"tools": [print]}, TypeError, r"tools\[0\] is <built-in function print>; needed: its JSON schema"),
    (HELLO, "a", {"return_dict": True}, TypeError, "return_dict is given, which is not supported"),
    (HELLO, "a", {"image": object()}, TypeError, "an argument holds a object; needed: texts"),
    (HELLO, "content", {"continue_final_message": True}, ValueError, "the last message '2.2.' is not in the text"),
    (HELLO, "a", {"continue_final_message": True}, ValueError, "asks for 'content', which the chat template does not"),
    (HELLO, "a", {"continue_final_message": "x"}, ValueError, "asks for 'x', which the last message does not have"),
    (
        CALL[:2],
        "a",
        {"continue_final_message": True},
        ValueError,
        "asks for 'content', which the last message does not",
    ),
    (
        [{"role": "user", "content": [{"type": "image"}]}],
        "content",
        {"continue_final_message": True},
        ValueError,
        "that of the last message has no text",
    ),
    (
        HELLO,
        "a",
        {"continue_final_message": True, "add_generation_prompt": True},
        ValueError,
        "continue_final_message and add_generation_prompt are both given; needed: one of them",
    ),
]


@pytest.mark.parametrize(
    ("messages", "template", "options", "kind", "said"), REFUSED, ids=[r[-1][:40] for r in REFUSED]
)
def test_refusals(tokenizer, messages, template, options, kind, said):
    with pytest.raises(kind, match=said):
        tokenizer.apply_chat_template(messages, template, **options)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ dict.__class__.__init__.__globals__ }}",
        "{% set ns = namespace(a=1) %}{% set ns.__class__ = 1 %}",
        "{{ namespace(_a=1) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{{ range(1000000000) }}",
        "{{ 'a'.format.__globals__ }}{{ '{0.__class__.__mro__[1]}'.format(1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_templates_are_not_trusted(tokenizer, template):
    """What leads out of the sandbox, and what never ends, is refused; messages stay as they are."""
    before = repr(HELLO)
    with pytest.raises(ValueError, match="the chat template refuses the messages"):
        tokenizer.apply_chat_template(HELLO, template, tokenize=False)
    assert repr(HELLO) == before


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_mutated_templates(tokenizer):
    """Errors in words, whatever a template looks like."""
    rng, refused = np.random.default_rng(0), 0
    templates = [case.template for case in CASES.values()]
    for i in range(600):
        text = list(templates[i % len(templates)])
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(text)))
            text[at : at + int(rng.integers(0, 3))] = rng.choice(["{", "}", "%", "{{", "%}", "'", "|", ".", "(", "1"])
        try:
            tokenizer.apply_chat_template(CALL, "".join(text), tools=[TOOL], tokenize=False)
        except ValueError as error:
            assert "the chat template" in str(error)
            refused += 1
    assert 100 < refused < 600


def test_import_without_jinja(plain):
    """A tokenizer needs no jinja2; a template says what to install."""
    code = f"""
import sys
sys.modules["jinja2"] = None
from transformer_fast import load_tokenizer
tokenizer = load_tokenizer({str(plain)!r})
try:
    tokenizer.apply_chat_template([{{"role": "user", "content": "a"}}], "a")
except ImportError as error:
    print(error)
"""
    assert "jinja2 is not installed; needed for chat templates: pip install 'transformer-fast[models]'" in printed(code)
