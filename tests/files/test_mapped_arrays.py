"""files/mapped_arrays.py: arrays that come back as they were, at places that kernels can read, and damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.mapped_arrays import read_arrays, write_arrays

ARRAYS = [
    np.arange(5, dtype=np.float32),
    np.zeros((0,), np.uint8),
    np.arange(130, dtype=np.uint8).reshape(2, 65)[:, 1:],
]


@pytest.fixture
def path(tmp_path):
    write_arrays(tmp_path / "file", {"said": ["é", 1]}, ARRAYS)
    return tmp_path / "file"


def test_arrays_come_back(path):
    content, arrays = read_arrays(path)
    assert content == {"said": ["é", 1]}
    for array, given in zip(arrays, ARRAYS, strict=True):
        assert array.tobytes() == given.tobytes() and not array.flags.writeable
        assert array.ctypes.data % 64 == 0 or not array.size
    assert [found.name for found in path.parent.iterdir()] == ["file"], "nothing unfinished is left"


def test_a_file_is_replaced_while_it_is_mapped(path):
    _, before = read_arrays(path)
    write_arrays(path, {}, [np.full(5, 7, np.float32)])
    assert before[0].tobytes() == ARRAYS[0].tobytes()
    assert read_arrays(path).arrays[0].view(np.float32).tolist() == [7] * 5


@pytest.mark.parametrize(
    "damage, text",
    [
        (lambda data: b"", "cannot be mapped"),
        (lambda data: data[:20], "is no file of mapped arrays"),
        (lambda data: data[:-1], "bytes; its header says"),
        (lambda data: data + b"x", "bytes; its header says"),
        (lambda data: b"GGUF" + data[4:], "is no file of mapped arrays"),
        (lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], "its header is damaged"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "its header is damaged"),
    ],
)
def test_damaged_files(path, damage, text):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=text):
        read_arrays(path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_arrays(tmp_path / "absent" / "file", {}, ARRAYS)
    with pytest.raises(TypeError):
        write_arrays(tmp_path / "file", {"not": {1, 2}}, ARRAYS)
    assert not list(tmp_path.iterdir())
