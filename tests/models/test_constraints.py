"""generation/constraints.py: what tiny random models write under a constraint, whatever they would have written.

tests/files/test_token_bytes.py looks at the bytes of tokens, on which all of this stands.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from decoder_cases import write_byte_gpt2

pytest.importorskip("tokenizers")
pytest.importorskip("llguidance")
hypothesis = pytest.importorskip("hypothesis")
jsonschema = pytest.importorskip("jsonschema")
st = hypothesis.strategies

from transformer_fast.generation import (  # noqa: E402
    Constraint,
    GenerationSession,
    constraint_processor,
    grammar_limits,
    load_tokenizer,
)
from transformer_fast.generation.grammar_tokens import Vocabulary, vocabulary_of  # noqa: E402
from transformer_fast.models import load_model  # noqa: E402

END, PROMPT = 10, "Hello"  # 10: the byte of some letter, so that the end is a token that text could hold as well
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dög", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_byte_gpt2(tmp_path_factory.mktemp("speaker"))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def written(model, tokenizer, constraint, **options):
    """The texts of all rows, each without its end; None for one that was cut off."""
    ids = np.array([tokenizer.encode(PROMPT).ids])
    options = {"max_new_tokens": 200, "eos_token_id": END, "pad_token_id": 11} | options
    rows = model.generate(ids, logits_processor=constraint_processor(constraint, tokenizer), **options)
    rows = rows[:, ids.shape[1] :].tolist()
    return [tokenizer.decode(row[: row.index(END)]) if END in row else None for row in rows]


def fits(value):
    """Whether a value is one of SCHEMA."""
    kinds = [type(value[name]) for name in ("name", "age", "tags")]
    assert list(value) == list(SCHEMA["properties"]) and kinds == [str, int, list]
    assert (
        len(value["name"]) <= 5 and 0 <= value["age"] <= 150 and value["kind"] in SCHEMA["properties"]["kind"]["enum"]
    )
    return 1 <= len(value["tags"]) <= 3 and all(type(tag) is bool for tag in value["tags"])


def test_json_of_a_schema(model, tokenizer):
    constraint = Constraint.json_schema(SCHEMA)
    texts = written(model, tokenizer, constraint, do_sample=True, seed=1, temperature=2.0, num_return_sequences=50)
    texts = [text for text in texts if text is not None]  # spaces may take all of the tokens
    assert len(texts) > 30 and len(set(texts)) > 30
    assert all(fits(json.loads(text)) for text in texts)
    assert Constraint.json_schema(json.dumps(SCHEMA)) == constraint  # the same compiled grammar


def test_any_json_object(model, tokenizer):
    texts = written(model, tokenizer, Constraint.json_object(), do_sample=True, seed=2, num_return_sequences=30)
    texts = [text for text in texts if text is not None]
    assert len(set(texts)) > 5 and all(type(json.loads(text)) is dict for text in texts)


@pytest.mark.parametrize("pattern", [r"[a-c]{2,5}/[0-9]{1,3}\n?x", "(ä|東\U0001f600)+\\.", "a b", r'"\\[/"]'])
def test_regular_expressions_match_from_start_to_end(model, tokenizer, pattern):
    texts = written(model, tokenizer, Constraint.regex(pattern), do_sample=True, seed=3, num_return_sequences=20)
    texts = [text for text in texts if text is not None]
    assert texts and all(re.fullmatch(pattern, text) for text in texts)


def test_choices(model, tokenizer):
    choices = ["yes", "no", "n", 'ü\n" / -\\', "[x]"]
    texts = written(model, tokenizer, Constraint.choice(choices), do_sample=True, seed=4, num_return_sequences=80)
    assert set(texts) == set(choices)
    assert written(model, tokenizer, Constraint.choice(["only"])) == ["only"]


@pytest.mark.parametrize(
    "text",
    ['start: "(" start ")" | /[xy]/', 'root ::= "(" root ")" | item\nitem ::= [xy] # an item\n'],
    ids=["lark", "gbnf"],
)
def test_grammars(model, tokenizer, text):
    texts = written(model, tokenizer, Constraint.grammar(text), do_sample=True, seed=5, num_return_sequences=30)
    texts = [text for text in texts if text is not None]
    assert len(set(texts)) > 3
    for text in texts:
        assert re.fullmatch(r"(\(*)[xy](\)*)", text) and text.count("(") == text.count(")")


def test_rows_of_a_batch_are_constrained_by_themselves(model, tokenizer):
    """Rows with padding, of different lengths: each gets what it gets alone."""
    constraint = Constraint.json_schema(SCHEMA)
    prompts = [tokenizer.encode(text).ids for text in ("Hello", "Hi", "abcdefg")]
    ids = np.array([[0] * (7 - len(row)) + row for row in prompts])
    mask = np.array([[0] * (7 - len(row)) + [1] * len(row) for row in prompts])
    options = {"max_new_tokens": 60, "eos_token_id": END, "pad_token_id": END}
    processor = constraint_processor(constraint, tokenizer)
    together = model.generate(ids, mask, logits_processor=processor, **options)[:, 7:]
    for row, prompt in zip(together, prompts, strict=True):
        alone = model.generate([prompt], logits_processor=[processor], **options)[0, len(prompt) :]
        assert row[: len(alone)].tolist() == alone.tolist()


def test_speculation_writes_the_same(model, tokenizer):
    constraint = Constraint.json_schema(
        SCHEMA | {"properties": SCHEMA["properties"] | {"name": {"enum": ["aaaaaaaa"]}}}
    )
    plain = written(model, tokenizer, constraint)
    assert written(model, tokenizer, constraint, prompt_lookup_num_tokens=6) == plain
    assert written(model, tokenizer, constraint, assistant_model=model) == plain
    drawn = written(model, tokenizer, constraint, assistant_model=model, do_sample=True, seed=1, max_new_tokens=300)
    assert drawn == [None] or json.loads(drawn[0])["name"] == "aaaaaaaa"


def test_session_and_stream(model, tokenizer):
    constraint = Constraint.regex("[a-d]{9}!")
    expected = written(model, tokenizer, constraint)
    session = GenerationSession(model)
    ids = [tokenizer.encode(PROMPT).ids]
    options = {
        "max_new_tokens": 20,
        "eos_token_id": END,
        "logits_processor": constraint_processor(constraint, tokenizer),
    }
    for _ in range(2):  # a processor keeps nothing of the last call
        new = [int(one[0]) for one in session.stream(ids, **options)]
        assert new[-1] == END and [tokenizer.decode(new[:-1])] == expected
    assert [int(one[0]) for one in model.stream(ids, **options)] == new


def test_states(tokenizer):
    """More scores than tokens; ends only where the text may end; tokens that are taken back."""
    state = Constraint.regex("ab?").start(tokenizer, 300, [END, 299])
    a, b = (tokenizer.tokenizer.token_to_id(letter) for letter in "ab")
    scores = np.linspace(1, 2, 300).astype(np.float32)

    def allowed():
        given = scores.copy()
        found = state.apply(given)
        assert (given == scores).all() and (found[np.isfinite(found)] == scores[np.isfinite(found)]).all()
        return set(np.flatnonzero(np.isfinite(found)).tolist())

    assert allowed() == {a} and not state.ended
    state.accept(a)
    assert allowed() == {b, END, 299} and not state.ended
    state.accept(b)
    assert allowed() == {END, 299} and state.ended
    state.accept(299)
    assert allowed() == {END, 299} and state.ended
    state.follow([a])
    assert allowed() == {b, END, 299} and not state.ended
    state.follow([a, END, 5, 5])
    assert state.ended
    state.follow([])
    assert allowed() == {a}
    for wrong in (b, END, 299, 298, -1):
        with pytest.raises(ValueError, match=f"token {wrong} may not follow 0 tokens"):
            state.accept(wrong)
    state.accept(a)
    assert allowed() == {b, END, 299}  # a refused token changes nothing


def test_special_tokens_are_no_text(tmp_path):
    """A control token is not allowed where its text would be; a token that is added as a word is."""
    library = pytest.importorskip("tokenizers")
    write_byte_gpt2(tmp_path)
    made = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    made.add_special_tokens(["<|end|>"])
    made.add_tokens([library.AddedToken("<tool>", normalized=False, special=False)])
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    tokenizer = load_tokenizer(tmp_path)
    scores = Constraint.regex("<.*").start(tokenizer, 260, [END]).apply(np.zeros(260, np.float32))
    allowed = set(np.flatnonzero(np.isfinite(scores)).tolist())
    assert allowed == {made.token_to_id("<"), made.token_to_id("<tool>")}
    named = Constraint.grammar(f'start: <[{made.token_to_id("<|end|>")}]> "x"').start(tokenizer, 260, [END])
    assert np.flatnonzero(np.isfinite(named.apply(np.zeros(260, np.float32)))).tolist() == [256]


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: Constraint.json_schema("{"), "the JSON schema is malformed: Expecting property name"),
        (lambda: Constraint.json_schema({"a": {1, 2}}), "the JSON schema is malformed: .* set is not JSON"),
        (lambda: Constraint.json_schema([1]), r"the JSON schema is list \[1\]; needed: an object"),
        (lambda: Constraint.json_schema({"not": {}}), "the JSON schema .*Unimplemented keys"),
        (lambda: Constraint.json_schema({"type": "nope"}), "the JSON schema .*Invalid type: nope"),
        (lambda: Constraint.json_schema({"$ref": "http://example.com/a.json"}), "does not fetch resources"),
        (lambda: Constraint.json_schema({"$ref": "#/$defs/a"}), "the JSON schema"),
        (lambda: Constraint.json_schema({"x-guidance": {"lenient": True}}), "x-guidance, which is not supported"),
        (lambda: Constraint.regex("(("), r"the regular expression '\(\(': .*unclosed group"),
        (lambda: Constraint.regex(r"(?=a)"), "look-around"),
        (lambda: Constraint.regex("\ud800"), "lone surrogate"),
        (lambda: Constraint.grammar("start: foo"), "the grammar 'start: foo': .*unknown name"),
        (lambda: Constraint.grammar("hello"), "the grammar 'hello': "),
        (lambda: Constraint.grammar("root ::= foo"), "the grammar in GBNF is malformed: Rule 'foo' not found"),
        (lambda: Constraint.grammar("start: a\na: a"), "the grammar .*(no text fits it|panic: .*)$"),
        (lambda: Constraint.json_schema({"$ref": "#"}), "no text fits it$"),
        (lambda: Constraint.choice([]), r"the choices are \[\]; needed: at least one string"),
    ],
)
def test_malformed_constraints(tokenizer, make, text):
    with pytest.raises(ValueError, match=text):
        make().start(tokenizer, 256, [END])


def test_options_that_do_not_fit(model, tokenizer):
    constraint = Constraint.choice(["yes"])
    with pytest.raises(ValueError, match="a constraint is given and num_beams is 2; needed: num_beams=1"):
        written(model, tokenizer, constraint, num_beams=2)
    with pytest.raises(ValueError, match="eos_token_id is None .*needed by a constraint"):
        written(model, tokenizer, constraint, eos_token_id=None, pad_token_id=None)
    with pytest.raises(ValueError, match="'.*yes.*|other options leave no token that may follow 3 tokens"):
        written(model, tokenizer, constraint, min_new_tokens=9)


# Each is refused, or compiled in a moment and then obeyed for some tokens.
def _nested(levels):
    schema = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _chained(count, **more):
    names = [f"a{i}" for i in range(count)]
    links = {name: {"$ref": f"#/$defs/a{i + 1}", **more} for i, name in enumerate(names)}
    return {"$defs": {**links, f"a{count}": {"type": "integer"}}, "$ref": "#/$defs/a0"}


_NASTY = "(.*a.{%d}b.*|c%d)*"
HOSTILE = {
    "deep": lambda: Constraint.json_schema('{"items":' * 100_000 + "{}" + "}" * 100_000),
    "deep mapping": lambda: Constraint.json_schema(_nested(60)),
    "chain of references": lambda: Constraint.json_schema(_chained(4_000)),
    "long chain": lambda: Constraint.json_schema(_chained(100_000)),
    "chain to nowhere": lambda: Constraint.json_schema(
        {"$defs": _chained(4_000)["$defs"] | {"a3999": {"type": "nope"}}, "$ref": "#/$defs/a0"}
    ),
    "chain of patterns": lambda: Constraint.json_schema(_chained(40, pattern="a.*b")),
    "recursive": lambda: Constraint.json_schema(
        {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}
    ),
    "loop": lambda: Constraint.json_schema({"$ref": "#"}),
    "doubled": lambda: Constraint.json_schema(
        {"$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(30)}, "$ref": "#/$defs/a0"}
    ),
    "properties": lambda: Constraint.json_schema({"properties": {f"p{i}": {} for i in range(100_000)}}),
    "some properties": lambda: Constraint.json_schema({"properties": {f"p{i}": {} for i in range(1_000)}}),
    "enum": lambda: Constraint.json_schema({"enum": [f"v{i}" for i in range(20_000)]}),
    "repeated": lambda: Constraint.json_schema({"type": "string", "minLength": 10**6, "maxLength": 10**9}),
    "items": lambda: Constraint.json_schema({"items": {"type": "integer"}, "minItems": 10**6, "maxItems": 10**9}),
    "multiples": lambda: Constraint.json_schema(
        {"allOf": [{"type": "integer", "multipleOf": n} for n in (97, 89, 83)]}
    ),
    "all of": lambda: Constraint.json_schema({"allOf": [{"pattern": _NASTY % (i, i)} for i in range(40)]}),
    "combinations": lambda: Constraint.json_schema(
        {"allOf": [{"anyOf": [{"minimum": i + 2 * j} for i in range(2)]} for j in range(40)]}
    ),
    "repeat": lambda: Constraint.regex("a{1,100000}"),
    "repeats": lambda: Constraint.regex("((a{1,1000}){1,1000}){1,1000}"),
    "states": lambda: Constraint.regex("(a|b)*a(a|b){60}"),
    "alternatives": lambda: Constraint.regex("|".join(_NASTY % (i, i) for i in range(100))),
    "long regex": lambda: Constraint.regex("a" * 1_000_000),
    "nested groups": lambda: Constraint.regex("(" * 8_000 + "a" + ")" * 8_000),
    "ambiguous": lambda: Constraint.grammar('start: start start start | "a" | ""'),
    "intersections": lambda: Constraint.grammar(
        "start: T\nT: " + " & ".join(f"/{_NASTY % (i, i)}/" for i in range(40))
    ),
    "rules": lambda: Constraint.grammar("\n".join(f"start{i or ''}: start{i + 1}" for i in range(500))),
    "many rules": lambda: Constraint.grammar("\n".join(f"start{i or ''}: start{i + 1}" for i in range(8_000))),
    "doubling": lambda: Constraint.grammar(
        "start: A0\n" + "\n".join(f"A{i}: A{i + 1} A{i + 1}" for i in range(40)) + '\nA40: "a"'
    ),
    "json in lark": lambda: Constraint.grammar(
        "start: %json " + json.dumps({"properties": {f"p{i}": {} for i in range(5_000)}})
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_constraints_take_a_moment(tokenizer, name):
    """The bound is a hundred times what they take: without limits they take hours, all memory, or end the process."""
    started = time.process_time()
    try:
        state = HOSTILE[name]().start(tokenizer, 256, [END])
        for _ in range(20):
            allowed = np.flatnonzero(np.isfinite(state.apply(np.zeros(256, np.float32))))
            state.accept(int(allowed[-1]))
            if state.ended:
                break
    except ValueError as error:
        assert len(str(error)) < 600
    assert time.process_time() - started < 60


_LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer", "minimum": -5},
        {"type": "number", "multipleOf": 0.5},
        {"type": ["boolean", "null"]},
        {"enum": ["a", 1, None]},
        {"const": {"x": [1]}},
        {"type": "string", "pattern": "^a+b?$", "maxLength": 9},
        {"type": "string", "format": "date"},
        {"$ref": "#"},
        {"$ref": "#/properties/a"},
        {"type": 5},
        {"minLength": -1},
        True,
        False,
    ]
)


def _wider(inner):
    return st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "ü"]), inner, max_size=3).map(
            lambda properties: {"type": "object", "properties": properties, "required": list(properties)[:1]}
        ),
        inner.map(lambda items: {"type": "array", "items": items, "maxItems": 3}),
        st.lists(inner, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"allOf": parts}),
    )


@hypothesis.settings(max_examples=80, deadline=None, derandomize=True, database=None)
@hypothesis.given(schema=st.recursive(_LEAVES, _wider, max_leaves=8), seed=st.integers(0, 99))
def test_schemas_of_all_kinds_give_json_or_an_error(tokenizer, schema, seed):
    """A walk by chance through what is allowed: its text is JSON that jsonschema accepts."""
    try:
        state = Constraint.json_schema(schema).start(tokenizer, 256, [END])
    except ValueError:
        return
    rng, tokens = np.random.default_rng(seed), []
    letters = tokenizer.token_bytes().tokens
    for _ in range(300):
        try:
            allowed = np.flatnonzero(np.isfinite(state.apply(np.zeros(256, np.float32))))
        except ValueError:
            return  # a schema that nothing fits, which shows half-way
        token = END if END in allowed else int(rng.choice(allowed))
        if token == END:
            break
        tokens.append(token)
        state.accept(token)
    else:
        return
    value = json.loads(b"".join(letters[token] for token in tokens))
    with contextlib.suppress(RecursionError):  # of a schema that refers to itself without end
        jsonschema.Draft202012Validator(schema).validate(value)


def test_limits_name_what_is_too_large():
    for schema, text in [
        ({"properties": {f"p{i}": {} for i in range(1_001)}}, "properties of the JSON schema has 1001 entries"),
        ({"anyOf": [{}] * 5_001}, "more than 5000 parts"),
        (_nested(101), "more than 100 levels"),
        ({"multipleOf": 10_007}, "multipleOf of the JSON schema: 10007 makes"),
        ({"allOf": [{"pattern": "a"}] * 10}, "10 patterns and formats, and 9 places"),
        ({"const": "x" * grammar_limits.MAX_BYTES}, "the JSON schema has .* bytes; needed: at most 262144"),
    ]:
        with pytest.raises(ValueError, match=text):
            Constraint.json_schema(schema)
    # Names of properties and data are no keywords.
    Constraint.json_schema({"properties": {"multipleOf": {"const": {"multipleOf": 10_007}}}})


def test_threads_share_a_vocabulary(tokenizer):
    assert vocabulary_of(tokenizer, 256) is vocabulary_of(tokenizer, 256)

    def walk(seed):
        state, rng, text = Constraint.json_schema(SCHEMA).start(tokenizer, 256, [END]), np.random.default_rng(seed), []
        for _ in range(60):
            allowed = np.flatnonzero(np.isfinite(state.apply(np.zeros(256, np.float32))))
            text.append(int(rng.choice(allowed)))
            state.accept(text[-1])
            if text[-1] == END:
                break
        return text

    alone = [walk(seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(walk, range(12))) == alone


def test_vocabulary_goes_with_its_tokenizer(folder):
    tokenizer = load_tokenizer(folder)
    before = tokenizer.tokenizer.to_str()
    Constraint.choice(["a"]).start(tokenizer, 256, [END])
    assert tokenizer.tokenizer.to_str() == before
    kept = weakref.ref(vocabulary_of(tokenizer, 256))
    assert isinstance(kept(), Vocabulary)
    del tokenizer
    gc.collect()
    assert kept() is None
