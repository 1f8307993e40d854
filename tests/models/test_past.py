"""A decoder's past, kept and used again: narrow caches, crop, save, past_key_values, several tokens in one call."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import GENERATING, TOLERANCE, inputs, write
from score_tables import Chain

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.generation import GenerationSession, generate

pytest.importorskip("safetensors")

FAMILIES = ["gpt2", "llama", "mistral", "gemma2", "gemma3", "qwen3"]
TYPES = ["bfloat16", "float16", "int8"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    return {name: write(folder / name, name) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def model(request, folders):
    return load_model(folders[request.param])


@pytest.fixture
def llama(folders):
    return load_model(folders["llama"])


@pytest.fixture
def mistral(folders):
    return load_model(folders["mistral"])


@pytest.fixture
def computed(monkeypatch):
    """How many tokens each call of a model's layers has had, from now on."""
    counts = []

    def watch(model):
        method = model.body.__class__.last_hidden

        def counted(self, ids, *rest, **options):
            counts.append(len(ids))
            return method(self, ids, *rest, **options)

        monkeypatch.setattr(type(model.body), "last_hidden", counted)
        return counts

    return watch


def close(got, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(got, expected, atol=tolerance, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Several tokens in one call


def check_bits_of_steps(model, dtype="float32"):
    """Also where windows have dropped positions, and after a crop: what greedy speculation stands on."""
    ids = inputs(40)[0]
    _, one = model.start(ids[:1], capacity=24, kv_cache_dtype=dtype)
    _, other = model.start(ids[:1], capacity=24, kv_cache_dtype=dtype)
    for n in (3, 5, 4):
        new = ids[1:2, :n]
        steps = np.concatenate([model.step(new[:, i], one) for i in range(n)])
        assert np.array_equal(model.extend(np.c_[new, [[5, 6]]], other, every=True)[:n], steps)
        other.crop(-2)
    assert one.get_seq_length() == other.get_seq_length() == 20


@pytest.mark.parametrize("dtype", ["float32", *TYPES])
def test_every_of_several_tokens_has_the_bits_of_a_step(model, dtype):
    check_bits_of_steps(model, dtype)


@pytest.mark.parametrize("case", sorted(set(GENERATING) - {*FAMILIES, "phi3"}))  # phi3: see its own tests
def test_bits_of_a_step_in_other_families(case, tmp_path):
    check_bits_of_steps(load_model(write(tmp_path, case)))


@pytest.mark.formats("int8")
@pytest.mark.formats("bfloat16")
@pytest.mark.parametrize("compute_type", ["bfloat16", "int8", "int8_a16"])
def test_bits_of_a_step_with_narrow_weights(compute_type, isa, folders):
    check_bits_of_steps(load_model(folders["llama"], compute_type=compute_type))


def test_bits_of_a_step_over_a_long_past(llama, isa, threads):
    """Where attention splits the keys: into which parts depends on how many a token sees."""
    ids = np.random.default_rng(0).integers(3, 40, (1, 1100))
    _, one = llama.start(ids[:, :1090], capacity=1100)
    _, other = llama.start(ids[:, :1090], capacity=1100)
    steps = np.concatenate([llama.step(ids[:, i], one) for i in range(1090, 1100)])
    assert np.array_equal(llama.extend(ids[:, 1090:], other, every=True), steps)


def test_several_tokens_of_several_rows(model):
    ids = inputs(40)[0]
    _, state = model.start(ids[:, :3], capacity=8)
    close(model.extend(ids[:, 3:], state), model(ids).logits[:, -1])
    with pytest.raises(ValueError, match=r"ids has shape \(3, 5\); needed: \(1, n\)"):
        model.extend(ids[:, 3:], state, every=True)
    with pytest.raises(ValueError, match=r"ids has shape \(1, 5\); needed: \(3, n\)"):
        model.extend(ids[:1, 3:], state)


# ---------------------------------------------------------------------------------------------------------------------
# Narrow caches


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0), ("bfloat16", 0.04), ("float16", 0.01), ("int8", 0.2)])
def test_narrow_caches_give_nearly_the_same_logits(model, dtype, bound):
    """As a share of the logits' spread; measured: bfloat16 up to 0.024, float16 0.006, int8 0.12
    (with heads of four to eight numbers, of which each has a large share of the scale)."""
    ids = inputs(40)[0]
    _, exact = model.start(ids, capacity=20)
    _, narrow = model.start(ids, capacity=20, kv_cache_dtype=dtype)
    assert {array.dtype.name for cache in narrow.caches for array in cache.seen(0)} == {dtype}
    for i in range(10):
        wanted, got = model.step(ids[:, i % 8], exact), model.step(ids[:, i % 8], narrow)
        error = np.abs(got - wanted).max() / wanted.std()
        assert error <= bound
    if bound:
        assert error > 0


@pytest.mark.parametrize("dtype", TYPES)
def test_narrow_caches_in_every_search(model, dtype):
    """Rows of unequal lengths, beams and growing arrays; a cache of its own type goes on from forward."""
    ids, _, left = inputs(40)
    options = {"max_new_tokens": 6, "kv_cache_dtype": dtype, "eos_token_id": None, "pad_token_id": 1}
    for search in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 1, "num_return_sequences": 2}):
        result = model.generate(ids, left, **options, **search)
        assert result.shape == (6 if "do_sample" in search else 3, 14)
    alone = model.generate(ids[:1], max_new_tokens=6, kv_cache_dtype=dtype, eos_token_id=None)
    assert np.array_equal(model.generate(ids, **options)[:1], alone)
    past = model(ids[:, :5], past_key_values=model.empty_past(3, dtype), use_cache=True).past_key_values
    assert past.dtype.name == dtype
    close(model(ids[:, 5:], past_key_values=past).logits, model(ids).logits[:, 5:], 0.5)


def test_where_no_narrow_cache_is(llama):
    ids = inputs(40)[0]
    with pytest.raises(ValueError, match="kv_cache_dtype is 'int4'; needed: float32, bfloat16, float16 or int8"):
        llama.generate(ids, kv_cache_dtype="int4")
    with pytest.raises(ValueError, match="kv_cache_dtype is 'int8'; needed: float32, that of past_key_values"):
        llama.generate(ids, kv_cache_dtype="int8", past_key_values=llama.empty_past(3))
    with pytest.raises(TypeError, match="kv_cache_dtype, which Chain does not take"):
        generate(Chain(), [[0]], kv_cache_dtype="int8")


# ---------------------------------------------------------------------------------------------------------------------
# crop


@pytest.mark.parametrize(("length", "left"), [(5, 5), (-3, 5), (0, 0), (8, 8), (20, 8)])
def test_crop_after_forward(model, length, left):
    ids, _, mask = inputs(40)
    past = model(ids, mask, use_cache=True).past_key_values
    past.crop(length)
    assert past.get_seq_length() == left
    columns = np.c_[mask[:, :left], np.ones((3, 4), int)]
    later = model(ids[:, 4:8], columns, past_key_values=past, use_cache=True)
    close(later.logits, model(np.c_[ids[:, :left], ids[:, 4:8]], columns).logits[:, left:])
    assert later.past_key_values.get_seq_length() == left + 4


def test_crop_of_a_generation(model):
    """Rows of unequal lengths lose as many tokens each."""
    ids, _, left = inputs(40)
    _, state = model.start(ids, left, capacity=20)
    before = model.step(ids[:, 0], state)
    model.step(ids[:, 1], state)
    model.step(ids[:, 2], state)
    state.crop(-3)
    assert np.array_equal(model.step(ids[:, 0], state), before)


def test_what_a_window_has_dropped_cannot_come_back(mistral):
    ids = np.random.default_rng(0).integers(3, 40, (1, 30))
    _, state = mistral.start(ids[:, :10], capacity=30)
    with pytest.raises(ValueError, match="max_length is 5; needed: more, since layers with a sliding window of 4"):
        state.crop(5)
    assert state.get_seq_length() == 10  # nothing has changed
    state.crop(10)
    for i in range(10, 30):
        mistral.step(ids[:, i], state)
    state.crop(-1)
    close(mistral.step(ids[:, 29], state), mistral(ids).logits[:, -1])
    with pytest.raises(ValueError, match="max_length is -31; needed: at least -30"):
        state.crop(-31)


# ---------------------------------------------------------------------------------------------------------------------
# save and load_past


@pytest.mark.parametrize("dtype", ["float32", *TYPES])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_past_goes_on(family, dtype, tmp_path, folders):
    model, again = load_model(folders[family]), load_model(folders[family])
    ids, _, mask = inputs(40)
    past = model(ids, mask, past_key_values=model.empty_past(3, dtype), use_cache=True).past_key_values
    past.save(tmp_path / "past")
    loaded = again.load_past(tmp_path / "past")
    assert loaded.dtype.name == dtype and loaded.get_seq_length() == 8
    new = np.array([[5, 6], [7, 8], [9, 10]])
    expected = model(new, past_key_values=past, use_cache=True).logits
    assert np.array_equal(again(new, past_key_values=loaded, use_cache=True).logits, expected)


def test_a_generation_is_saved_too(mistral, tmp_path):
    """With what a window holds; padding of the prompts stays unknown."""
    ids, _, left = inputs(40)
    _, state = mistral.start(ids, left, capacity=30)
    for i in range(8):
        mistral.step(ids[:, i], state)
    state.save(tmp_path / "past.npz")
    loaded = mistral.load_past(tmp_path / "past.npz")
    assert np.array_equal(mistral.step(ids[:, 0], loaded), mistral.step(ids[:, 0], state))
    with pytest.raises(ValueError, match="prompts with padding"):
        mistral(ids, past_key_values=loaded)


def test_files_that_are_no_past_of_this_model(llama, mistral, folders, tmp_path):
    path = tmp_path / "past"
    ids = inputs(40)[0]
    mistral(ids, use_cache=True).past_key_values.save(path)
    with pytest.raises(CheckpointError, match="is of a model with another config; needed: one of a LlamaConfig"):
        llama.load_past(path)
    llama(ids, use_cache=True).past_key_values.save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:1000], b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as a saved past"):
            llama.load_past(path)
    path.write_bytes(whole)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name, wrong in (
        ("0/keys.0", arrays["0/keys.0"][:, :, :-1]),
        ("0/values.1", arrays["0/values.1"].astype(np.float64)),
        ("lengths.0", arrays["lengths.0"] + 1),
        ("positions", arrays["positions"][:2]),
        ("tokens", np.ones((3, 9), np.int64)),
        ("header", np.array([None], object)),
    ):
        np.savez(tmp_path / "wrong.npz", **{**arrays, name: wrong})
        with pytest.raises(CheckpointError):
            llama.load_past(tmp_path / "wrong.npz")
    with pytest.raises(CheckpointError, match="No such file"):
        llama.load_past(tmp_path / "absent")


# ---------------------------------------------------------------------------------------------------------------------
# past_key_values of generate


@pytest.mark.parametrize("rows", [1, 3])
def test_what_a_past_holds_is_not_computed_again(model, rows, computed):
    ids = inputs(40)[0][:rows]
    options = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": None}
    expected = model.generate(ids, **options)
    past = model(ids[:, :6], use_cache=True).past_key_values
    counts = computed(model)
    assert np.array_equal(model.generate(ids, past_key_values=past, **options), expected)
    assert counts == [2 * rows, *[rows] * 4]
    assert past.get_seq_length() == 12
    # And again: a turn of a conversation.
    longer = np.c_[expected, ids[:, :3]]
    counts.clear()
    again = model.generate(longer, past_key_values=past, **options)
    assert counts[0] == 4 * rows
    assert np.array_equal(again, model.generate(longer, **options))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_beams": 2}, "past_key_values is given with num_beams=2"),
        ({"do_sample": True, "num_return_sequences": 2}, "num_return_sequences=2; needed: 1"),
        ({"attention_mask": [[0, 1, 1, 1, 1, 1, 1, 1]] * 3}, "padding; needed with past_key_values: none"),
        ({"input_ids": [[3, 4, 5]] * 3}, r"holds 3 rows of 5 columns and input_ids has shape \(3, 3\)"),
        ({"input_ids": [[3] * 8]}, r"holds 3 rows of 5 columns and input_ids has shape \(1, 8\)"),
    ],
)
def test_pasts_that_do_not_fit(llama, options, text):
    ids = inputs(40)[0]
    past = llama(ids[:, :5], use_cache=True).past_key_values
    with pytest.raises(ValueError, match=text):
        llama.generate(**{"input_ids": ids, "past_key_values": past, **options})
    with pytest.raises(TypeError, match="past_key_values, which Chain does not take"):
        generate(Chain(), [[0]], past_key_values=past)


# ---------------------------------------------------------------------------------------------------------------------
# Sessions


def test_a_session_computes_what_is_new(model, computed):
    ids = inputs(40)[0][:1]
    options = {"max_new_tokens": 4, "eos_token_id": None, "pad_token_id": None}
    session, counts = GenerationSession(model), computed(model)
    first = session.generate(ids, **options)
    assert counts == [8, 1, 1, 1] and np.array_equal(session.ids, first[0, :-1])
    question = np.c_[first, ids[:, :3]]
    counts.clear()
    second = session.generate(question, **options)
    assert counts[0] == 4
    other = np.c_[first[:, :10], ids[:, :2]]  # taken back
    counts.clear()
    third = session.generate(other, **options)
    assert counts[0] == 2
    counts.clear()
    assert np.array_equal(session.generate(other, **options), third)  # the same again: one token
    assert counts[0] == 1
    for prompt, result in ((ids, first), (question, second), (other, third)):
        assert np.array_equal(model.generate(prompt, **options), result)


@pytest.mark.parametrize("lookup", [None, 4])
def test_a_session_that_is_stopped_early(llama, lookup):
    ids = np.tile(inputs(40)[0][:1], 3)
    session = GenerationSession(llama, kv_cache_dtype="float16")
    options = {"eos_token_id": None, "prompt_lookup_num_tokens": lookup}
    stream = session.stream(ids, max_new_tokens=20, **options)
    seen = [int(next(stream)[0]) for _ in range(5)]
    stream.close()
    assert np.array_equal(session.ids, [*ids[0], *seen[:4]])
    whole = session.generate(np.c_[ids, [seen]], max_new_tokens=3, **options)
    assert np.array_equal(whole, llama.generate(ids, max_new_tokens=8, kv_cache_dtype="float16", eos_token_id=None))


def test_a_session_after_an_error(llama):
    ids = inputs(40)[0][:1]
    session = GenerationSession(llama)

    def fail(ids, scores):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        session.generate(ids, logits_processor=fail)
    assert np.array_equal(session.generate(ids, max_new_tokens=3), llama.generate(ids, max_new_tokens=3))
    with pytest.raises(ValueError, match=r"input_ids is int64 of shape \(2, 1\); needed: integers \(1, L\)"):
        session.generate([[1], [2]])
    with pytest.raises(TypeError, match="model is a Chain; needed: a decoder"):
        GenerationSession(Chain())
