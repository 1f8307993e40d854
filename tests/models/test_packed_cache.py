"""models/common/packed_cache.py: mapped weights compute the same bits, and files that do not fit are seen."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from decoder_cases import inputs, write
from model_folders import TINY_BERT, bert_tensors, write_bert
from subprocesses import printed

from transformer_fast import functional, load_model
from transformer_fast.files.source import mapping_of
from transformer_fast.functional.packed_bytes import NUMBERS, describe, restore, sample_digest
from transformer_fast.models.common import packed_cache
from transformer_fast.models.common.packed_cache import PackedCacheWarning
from transformer_fast.nn import packed_weights

pytest.importorskip("safetensors")

IDS = [[1, 2, 3, 4], [5, 6, 0, 2]]
TYPES = ["auto", "float16", "bfloat16", "bfloat16_a32", "int8", "int8_a16", "int4", "int4_a8"]


@pytest.fixture
def folder(tmp_path):
    return write_bert(tmp_path / "model")


@pytest.fixture
def packings(monkeypatch):
    """The shape of each weight that modules pack."""
    found, pack = [], functional.pack_weight

    def counted(weight, **options):
        packed = pack(weight, **options)
        found.append(packed.shape)
        return packed

    monkeypatch.setattr(packed_weights.F, "pack_weight", counted)
    return found


def hidden(model) -> np.ndarray:
    return model(IDS).last_hidden_state


@pytest.mark.formats("int8")
@pytest.mark.parametrize("compute_type", TYPES)
def test_the_same_bits_without_packing(isa, folder, packings, compute_type):
    expected = hidden(load_model(folder, compute_type=compute_type))
    cache = folder.parent / "cache"
    first = load_model(folder, compute_type=compute_type, packed_cache=cache)
    packings.clear()
    assert np.array_equal(hidden(first), expected) and not packings, "the writer maps its file, too"
    second = load_model(folder, compute_type=compute_type, packed_cache=cache)
    assert np.array_equal(hidden(second), expected) and not packings
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_decoders(isa, tmp_path, packings, case):
    folder, ids = write(tmp_path / "model", case), inputs(40)[0]
    expected = load_model(folder)(ids).logits
    load_model(folder, packed_cache=tmp_path)
    packings.clear()
    model = load_model(folder, packed_cache=tmp_path)
    assert np.array_equal(model(ids).logits, expected) and not packings


@pytest.mark.formats("int8")
def test_samples_are_the_same_each_time(isa):
    layouts = [(number, for_decode) for number in sorted(NUMBERS) for for_decode in (False, True)]
    assert [sample_digest(*layout) for layout in layouts] == [sample_digest(*layout) for layout in layouts]


def test_samples_tell_layouts_apart():
    digests = {number: sample_digest(number, False) for number in NUMBERS}
    # "_a8" changes how x is rounded, and nothing of the weight's bytes but their number.
    assert len(set(digests.values())) == len(NUMBERS)


def test_weights_of_several_parts():
    parts = (np.ones((3, 8), np.float32), np.full((2, 8), 2, np.float16))
    packed = functional.pack_weight(parts, format="blocks")
    description, arrays = describe(packed)
    arrays = [_at_64(array) for array in arrays]
    again = restore(description, arrays)
    assert again.format == packed.format == "float32+float16" and np.array_equal(again.unpack(), packed.unpack())


@pytest.mark.parametrize(
    "field, value, error",
    [
        ("shape", [3, 900], "needed: .* bytes that begin at a multiple of 64"),
        ("shape", [-3, 8], "there is no such weight"),
        ("layout", [0, True, 7, 9, 28], "the layout is"),
        ("layout", [99, True, 7, 9, 28], "there is no format of number 99"),
    ],
)
def test_descriptions_that_do_not_fit(field, value, error):
    description, (data,) = describe(functional.pack_weight(np.ones((3, 8), np.float32), for_decode=True))
    description["parts"][0][field] = value
    with pytest.raises(ValueError, match=error):
        restore(description, [data])


def _at_64(array: np.ndarray) -> np.ndarray:
    room = np.zeros(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + array.nbytes] = array
    return room[start : start + array.nbytes]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_matrix_lies_in_a_file(tmp_path, dtype):
    """Queries, keys and values of BERT are three tensors and one parameter."""
    tensors = {name: array.astype(dtype) for name, array in bert_tensors().items()}
    folder = write_bert(tmp_path / "model", TINY_BERT, tensors)
    expected = load_model(folder)
    for _ in range(2):
        model = load_model(folder, packed_cache=tmp_path / "cache")
        assert np.array_equal(hidden(model), hidden(expected))
    for name, parameter in model.named_parameters():
        assert parameter.ndim == 1 or mapping_of(parameter) is not None, name
        assert parameter.dtype == expected.state_dict()[name].dtype
        assert np.array_equal(parameter, expected.state_dict()[name])


def test_other_models_have_other_files(folder, tmp_path):
    cache = tmp_path / "cache"
    load_model(folder, packed_cache=cache)
    changed = bert_tensors()
    changed["encoder.layer.0.output.dense.weight"] = changed["encoder.layer.0.output.dense.weight"] * 2
    status = (folder / "model.safetensors").stat()
    write_bert(folder, TINY_BERT, changed)
    os.utime(folder / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (folder / "model.safetensors").stat().st_size == status.st_size
    assert np.array_equal(hidden(load_model(folder, packed_cache=cache)), hidden(load_model(folder)))
    load_model(folder, packed_cache=cache, compute_type="int8")
    load_model(folder, packed_cache=cache, ignore_fields={"hidden_act", "pad_token_id"})
    load_model(folder, packed_cache=cache, ignore_fields=["pad_token_id", "hidden_act"])
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", ["short", "header", "weights"])
def test_a_damaged_file_is_written_anew(folder, tmp_path, monkeypatch, damage):
    cache = tmp_path / "cache"
    expected = hidden(load_model(folder, packed_cache=cache))
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if damage == "weights":  # a complete file whose header says nonsense of its weights
        arrays = packed_cache.read_arrays(file)
        first = next(iter(arrays.content["weights"].values()))
        first["parts"][0]["shape"] = [1, 1]
        packed_cache.write_arrays(file, arrays.content, arrays.arrays)
    else:
        file.write_bytes(content[:-5000] if damage == "short" else content[:100] + b"?" + content[101:])
    with pytest.warns(PackedCacheWarning, match=rf"{file.name}: .*; it is written anew"):
        assert np.array_equal(hidden(load_model(folder, packed_cache=cache)), expected)
    assert file.read_bytes() == content


def test_a_file_of_a_build_that_packs_otherwise_is_written_anew(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    with monkeypatch.context() as other:
        other.setattr(packed_cache, "sample_digest", lambda *layout: "another")
        expected = hidden(load_model(folder, packed_cache=cache))
    (file,) = cache.iterdir()
    assert b"another" in file.read_bytes()[:9000]
    assert np.array_equal(hidden(load_model(folder, packed_cache=cache)), expected)
    assert b"another" not in file.read_bytes()[:9000]


def test_parameters_that_are_replaced_are_packed(folder, tmp_path, packings):
    model = load_model(folder, packed_cache=tmp_path / "cache", compute_type="int8")
    twin = load_model(folder, compute_type="int8")
    hidden(model)
    packings.clear()
    for one in (model, twin):
        one.layers[0].feed_forward.linear1.weight = one.layers[0].feed_forward.linear1.weight * 2
    assert np.array_equal(hidden(model), hidden(twin)) and packings == [(40, 24)] * 2


def test_another_level_packs_in_memory(folder, tmp_path):
    before, model = functional.get_isa(), load_model(folder, packed_cache=tmp_path / "cache")
    expected = hidden(model)
    try:
        for isa in functional.available_isas():
            functional.set_isa(isa)
            assert np.array_equal(hidden(model), hidden(load_model(folder)))
    finally:
        functional.set_isa(before)
    assert np.array_equal(hidden(model), expected)


def test_copies_share_parameters_and_need_no_file(folder, tmp_path):
    model = load_model(folder, packed_cache=tmp_path / "cache")
    for other in (copy.copy(model), copy.deepcopy(model)):
        assert all(a is b for a, b in zip(other.parameters(), model.parameters(), strict=True))
        assert np.array_equal(hidden(other), hidden(model))
    name, array = next(iter(other.named_parameters()))
    other.load_state_dict({name: array + 1}, strict=False)
    assert dict(model.named_parameters())[name] is array


def test_models_pickle_as_path_and_options(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = load_model(
        folder.relative_to(tmp_path), packed_cache="cache", compute_type={"": "int8", "pooler": "float32"}
    )
    content = pickle.dumps(model)
    assert len(content) < 1000
    monkeypatch.chdir("/")
    again = pickle.loads(content)
    assert type(again) is type(model) and np.array_equal(hidden(again), hidden(model))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_changed_models_pickle_with_their_weights(folder):
    model = load_model(folder)
    name, array = next(iter(model.named_parameters()))
    model.load_state_dict({name: array + 1}, strict=False)
    content = pickle.dumps(model)
    assert len(content) > sum(parameter.nbytes for parameter in model.parameters())
    assert np.array_equal(hidden(pickle.loads(content)), hidden(model))


def test_models_that_generate_pickle_as_path_and_settings(tmp_path):
    """Also where the defaults of generation, a dictionary, are changed in place."""
    model = load_model(write(tmp_path / "llama", "llama"))
    model.generation_config["max_new_tokens"] = 3
    content = pickle.dumps(model)
    assert len(content) < 1500
    for again in (pickle.loads(content), copy.deepcopy(model)):
        assert again.generation_config == model.generation_config
        assert np.array_equal(again.generate(IDS[:1]), model.generate(IDS[:1]))
    model.generation_config = {"max_new_tokens": 2}
    again = pickle.loads(pickle.dumps(model))
    assert again.generation_config == {"max_new_tokens": 2} and again.generate(IDS[:1]).shape == (1, 6)


def test_two_threads_write_at_once(folder, tmp_path):
    expected = hidden(load_model(folder))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: hidden(load_model(folder, packed_cache=tmp_path / "cache")), range(8)))
    assert all(np.array_equal(one, expected) for one in found)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may do all may write everywhere")
def test_a_folder_that_may_not_be_written(folder, tmp_path):
    cache = tmp_path / "cache"
    expected = hidden(load_model(folder, packed_cache=cache))
    cache.chmod(0o500)
    try:
        assert np.array_equal(hidden(load_model(folder, packed_cache=cache)), expected)
        with pytest.raises(PermissionError, match="packed_cache: cannot be written"):
            load_model(folder, packed_cache=cache, compute_type="int8")
    finally:
        cache.chmod(0o700)


def test_what_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_cache, "write_arrays", full)
    with pytest.raises(OSError, match=r"packed_cache: cannot be written \(No space left on device\); needed: a folder"):
        load_model(folder, packed_cache=tmp_path / "cache")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        load_model(folder, packed_cache=tmp_path / "file")


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads /proc, which this system lacks")
def test_a_second_process_has_no_weights_of_its_own(tmp_path):
    """Some MB of weights; what counts is memory that only this process has."""
    wide = TINY_BERT | {"hidden_size": 256, "intermediate_size": 2048, "vocab_size": 4000, "num_attention_heads": 4}
    folder = write_bert(tmp_path / "model", wide, bert_tensors(config=wide))
    code = f"""
        import numpy as np, transformer_fast as tf
        from transformer_fast.models import bert

        def own():
            lines = [line.split() for line in open("/proc/self/smaps_rollup")]
            return sum(int(line[1]) for line in lines if line[0] == "Private_Dirty:") / 1024

        def load(**options):
            before = own()
            model = tf.load_model({str(folder)!r}, **options)
            model([[1, 2, 3]])
            return own() - before, sum(a.nbytes for a in model.parameters()) / 2**20, model

        tf.set_num_threads(1)
        load(packed_cache={str(tmp_path / "cache")!r})
        print(*load()[:2], load(packed_cache={str(tmp_path / "cache")!r})[0])
    """
    packed, size, mapped = map(float, printed(code).split())
    assert size > 12 and packed > size / 2 and mapped < 1
