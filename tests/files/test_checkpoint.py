"""checkpoint.py: good files arrive unchanged and uncopied; every kind of bad file is an error that names it."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from model_folders import write_json

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import INDEX, WEIGHTS
from transformer_fast.files.json_files import member, read_json

ml_dtypes = pytest.importorskip("ml_dtypes")
save_file = pytest.importorskip("safetensors.numpy").save_file


def entry(code="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": code, "shape": list(shape), "data_offsets": list(offsets)}


def raw(header, data=b"", length=None):
    """The bytes of a safetensors file with that header (an object, or bytes as they are)."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    return tmp_path


def test_tensors_are_read_only_views_of_the_file(folder):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4),
        "empty": np.zeros((0, 3), np.float32),
    }
    save_file(arrays, folder / WEIGHTS)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config == {"model_type": "bert"}
    assert set(checkpoint.tensors) == set(arrays)
    for name, expected in arrays.items():
        tensor = checkpoint.tensors[name]
        assert tensor.shape == expected.shape
        array = tensor.array()
        assert array.dtype == expected.dtype and np.array_equal(array, expected)
        assert not array.flags.writeable and not array.flags.owndata
    taken = checkpoint.renamed({"b": "ignored", "a": "x", "empty": "y"}.get).take({"x": (2, 3), "y": (0, 3)}, ("ign",))
    assert np.shares_memory(taken["x"], checkpoint.tensors["a"].data)
    with pytest.raises(ValueError, match="read-only"):
        taken["x"][0, 0] = 1


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_tensors_keep_the_type_of_the_file(folder, dtype):
    values = np.linspace(-3, 3, 7).astype(dtype)
    save_file({"a": values}, folder / WEIGHTS)
    array = Checkpoint.open(folder).take({"a": (7,)})["a"]
    assert array.dtype == values.dtype and np.array_equal(array, values)
    assert not array.flags.writeable and not array.flags.owndata


def test_a_file_that_does_not_align_its_tensors(folder):
    values = np.arange(3, dtype=np.float32)
    header = json.dumps({"abc": entry(shape=[3], offsets=[0, 12])}).encode()
    header += b" " * ((1 - len(header)) % 4)  # the data starts at an odd address
    (folder / WEIGHTS).write_bytes(raw(header, values.tobytes()))
    array = Checkpoint.open(folder).take({"abc": (3,)})["abc"]
    assert array.flags.aligned and np.array_equal(array, values) and not array.flags.writeable


MALFORMED = {
    "empty": b"",
    "seven bytes": b"1234567",
    "eight zeros": bytes(8),
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "header longer than the file": raw({"a": entry()}, bytes(4), length=10**6),
    "overlap": raw({"a": entry(shape=[2], offsets=[0, 8]), "b": entry(shape=[2], offsets=[4, 12])}, bytes(12)),
    "hole": raw({"a": entry(), "b": entry(offsets=[8, 12])}, bytes(12)),
    "hole at the start": raw({"a": entry(offsets=[8, 12])}, bytes(12)),
    "truncated": raw({"a": entry(shape=[2], offsets=[0, 8])}, bytes(4)),
    "bytes behind the last tensor": raw({"a": entry()}, bytes(12)),
    "size does not fit the shape": raw({"a": entry(shape=[3], offsets=[0, 8])}, bytes(8)),
    "bad JSON": raw(b'{"a": '),
    "not an object": raw(b"[1, 2]"),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "deep nesting": raw(b'{"a":' + b"[" * 100_000),
    "NaN": raw(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "unknown type": raw({"a": entry("F99")}, bytes(4)),
    "negative size": raw({"a": entry(shape=[-1])}, bytes(4)),
    "negative offset": raw({"a": entry(offsets=[-4, 0])}, bytes(4)),
    "offsets reversed": raw({"a": entry(offsets=[4, 0])}, bytes(4)),
    "size that overflows": raw({"a": entry(shape=[2**40, 2**40])}, bytes(4)),
    "same name twice": raw(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)),
    "same field twice": raw(b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_safetensors(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=WEIGHTS.replace(".", r"\.")):
        Checkpoint.open(folder)


def test_take_names_what_is_wrong(folder):
    save_file(
        {"a": np.zeros((2, 3), np.float32), "n": np.zeros(2, np.int64), "f8": np.zeros(1, ml_dtypes.float8_e4m3fn)},
        folder / WEIGHTS,
    )
    checkpoint = Checkpoint.open(folder)
    rest = ("n", "f8")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing tensors: 'b'"):
        checkpoint.take({"a": (2, 3), "b": (1,)}, rest)
    with pytest.raises(CheckpointError, match=r"does not use: 'n', 'f8'|does not use: 'f8', 'n'"):
        checkpoint.take({"a": (2, 3)})
    with pytest.raises(CheckpointError, match=r"tensor 'a' has shape \(2, 3\); needed by config.json: \(3, 2\)"):
        checkpoint.take({"a": (3, 2)}, rest)
    with pytest.raises(CheckpointError, match="tensor 'n' has type I64"):
        checkpoint.take({"n": (2,)}, ("a", "f8"))
    with pytest.raises(CheckpointError, match="'f8' has type F8_E4M3"):
        checkpoint.tensors["f8"].array()
    with pytest.raises(CheckpointError, match="both mean 'same'"):
        checkpoint.renamed(lambda name: "same")
    many = {f"t{i}": (1,) for i in range(100)}
    with pytest.raises(CheckpointError, match="'t7' and 92 more"):
        checkpoint.take(many)


# ----------------------------------------------------------------------------------------------------------------------
# Shards


def write_shards(folder, weight_map=None, index=None):
    save_file({"a": np.ones(2, np.float32)}, folder / "one.safetensors")
    save_file({"b": np.ones(3, np.float32), "c": np.ones(4, np.float32)}, folder / "two.safetensors")
    weight_map = weight_map or {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    write_json(folder / INDEX, index or {"metadata": {"total_size": 36}, "weight_map": weight_map})


def test_shards(folder):
    write_shards(folder)
    taken = Checkpoint.open(folder).take({"a": (2,), "b": (3,), "c": (4,)})
    assert [len(array) for array in taken.values()] == [2, 3, 4]


@pytest.mark.parametrize(
    "weight_map, text",
    [
        ({"a": "one.safetensors", "b": "two.safetensors"}, r"two\.safetensors: holds tensors .* 'c'"),
        ({"a": "one.safetensors", "b": "one.safetensors", "c": "one.safetensors"}, "do not hold: 'b', 'c'"),
        ({"a": "missing.safetensors"}, r"'missing\.safetensors' is not in the folder"),
        ({"a": "../one.safetensors"}, "points outside"),
        ({"a": "/etc/one.safetensors"}, "points outside"),
        ({"a": "x\\..\\..\\one.safetensors"}, "points outside"),
        ({"a": "C:one.safetensors"}, "points outside"),
        ({"a": "one.bin"}, r"'one\.bin' is no \.safetensors file"),
        ({"a": 3}, "3 is no file name"),
        ({"a": ["one.safetensors"]}, "is no file name"),
    ],
)
def test_bad_index(folder, weight_map, text):
    write_shards(folder, weight_map)
    with pytest.raises(CheckpointError, match=text) as caught:
        Checkpoint.open(folder)
    assert "safetensors" in str(caught.value)


@pytest.mark.parametrize("index", [[], {"a": 1}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": "x"}])
def test_index_that_is_none(folder, index):
    write_shards(folder, index=index or [1])
    with pytest.raises(CheckpointError, match="index"):
        Checkpoint.open(folder)


def test_a_malformed_shard_is_named(folder):
    write_shards(folder)
    (folder / "two.safetensors").write_bytes(b"1234567")
    with pytest.raises(CheckpointError, match=r"two\.safetensors"):
        Checkpoint.open(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Folders, JSON, names


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model.bin.index.json", "last.ckpt"])
def test_pickles_are_refused(folder, name):
    (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"{name}: pickle-based weights are refused"):
        Checkpoint.open(folder)


def test_folders_that_are_none(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"no weights; needed: model\.safetensors"):
        Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="no such folder"):
        Checkpoint.open(tmp_path / "nowhere")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: there is no such file"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"],
    ids=["empty", "cut off", "NaN", "twice", "not UTF-8", "deep", "long number"],
)
def test_bad_json(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json: not valid JSON"):
        read_json(path)


def test_a_byte_order_mark_is_no_json(tmp_path):
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"vocab_size": 5}\n')
    assert read_json(tmp_path / "config.json") == {"vocab_size": 5}


def test_config_must_be_an_object(folder):
    write_json(folder / "config.json", [1])
    with pytest.raises(CheckpointError, match=r"config\.json: holds a JSON list"):
        Checkpoint.open(folder)


def test_members_stay_inside(tmp_path):
    assert member(tmp_path, "1_Pooling", tmp_path) == tmp_path / "1_Pooling"
    assert member(tmp_path, "", tmp_path) == tmp_path
    for name in ("..", "a/../../b", "/a", "\\a", "C:\\a", "a\0b", None):
        with pytest.raises(CheckpointError, match="points outside|no file name"):
            member(tmp_path, name, tmp_path / "modules.json")


def test_links_out_of_the_folder_are_followed(folder, tmp_path_factory):
    """The hub's cache consists of them."""
    blob = tmp_path_factory.mktemp("blobs") / "0123"
    save_file({"a": np.ones(2, np.float32)}, blob)
    (folder / WEIGHTS).symlink_to(blob)
    assert Checkpoint.open(folder).take({"a": (2,)})["a"].tolist() == [1, 1]
