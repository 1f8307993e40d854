"""Chat templates next to transformers: the same text, the same tokens, of the cases in helpers/chat_templates.py."""

from __future__ import annotations

import pytest
from chat_templates import CASES, HELLO, TOKENS
from model_folders import write_json

from transformer_fast.tokenization import load_tokenizer

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("chat")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    found = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.add_special_tokens([*TOKENS.values(), "<|im_end|>"])
    found.save(str(folder / "tokenizer.json"))
    templates = [{"name": name, "template": case.template} for name, case in CASES.items()]
    options = {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS, "chat_template": templates}
    write_json(folder / "tokenizer_config.json", options)
    return load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", CASES)
def test_chats(both, name):
    case, (ours, theirs) = CASES[name], both
    for tokenize in (False, True):
        options = {"tokenize": tokenize, **case.options}
        expected = theirs.apply_chat_template(case.messages, chat_template=name, return_dict=False, **options)
        assert ours.apply_chat_template(case.messages, name, **options) == expected


@pytest.mark.parametrize("template", ["{{ messages[9].role }}", "{{ 'a' + 1 }}", "{% if %}", "{{ ''.__class__.x }}"])
def test_what_both_refuse(both, template):
    ours, theirs = both
    with pytest.raises(ValueError, match="the chat template"):
        ours.apply_chat_template(HELLO, template)
    with pytest.raises(Exception):  # noqa: B017  Jinja's own errors, of several kinds
        theirs.apply_chat_template(HELLO, chat_template=template)
