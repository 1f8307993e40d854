"""gguf.py and gguf_blocks.py: what the package gguf writes arrives unchanged; broken files are errors that name it."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf import _TYPES, Strings, read_gguf
from transformer_fast.files.gguf_blocks import BLOCKS, expand

gguf = pytest.importorskip("gguf")
ml_dtypes = pytest.importorskip("ml_dtypes")

METADATA = {
    "a.u8": (200, "UINT8"),
    "a.i8": (-3, "INT8"),
    "a.u16": (60000, "UINT16"),
    "a.i16": (-9, "INT16"),
    "a.u32": (7, "UINT32"),
    "a.i32": (-7, "INT32"),
    "a.u64": (2**40, "UINT64"),
    "a.i64": (-(2**40), "INT64"),
    "a.f32": (0.5, "FLOAT32"),
    "a.f64": (0.1, "FLOAT64"),
    "a.bool": (True, "BOOL"),
    "a.text": ("Grüße", "STRING"),
    "a.tokens": (["<s>", "", "▁the", "ß"], "ARRAY"),
    "a.scores": ([0.25, -1.5], "ARRAY"),
    "a.flags": ([True, False], "ARRAY"),
}


# Where a block has numbers of half precision.
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "MXFP4": ()}
HALVES |= dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)) | dict.fromkeys(
    ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL"), (0,)
)


def blocks(code, count, seed=0):
    """Random bytes of so many blocks, with finite scales."""
    found = np.random.default_rng(seed).integers(0, 256, (count, BLOCKS[code].nbytes), np.uint8)
    for at in HALVES[code]:
        found[:, at : at + 2] = np.linspace(-2, 2, count, dtype=np.float16).view(np.uint8).reshape(count, 2)
    return found


def write(path, metadata=METADATA, tensors=None):
    """A file by the package gguf: metadata as above, tensors by name (arrays, or (code, bytes of rows))."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, (value, kind) in metadata.items():
        if kind == "ARRAY":
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType[kind])
    for name, tensor in (tensors or {}).items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[1], raw_dtype=gguf.GGMLQuantizationType[tensor[0]])
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata(tmp_path):
    found = read_gguf(write(tmp_path / "a.gguf")).metadata
    assert found.pop("general.architecture") == "llama"
    assert found.keys() == METADATA.keys()
    for key, (value, kind) in METADATA.items():
        if kind == "ARRAY":
            assert list(found[key]) == value, key
        else:
            assert found[key] == (np.float32(value) if kind == "FLOAT32" else value), key
            assert type(found[key]) is type(value), key


def test_strings(tmp_path):
    tokens = read_gguf(write(tmp_path / "a.gguf")).metadata["a.tokens"]
    assert isinstance(tokens, Strings) and len(tokens) == 4
    assert tokens[2] == tokens[-2] == "▁the" and tokens[1:3] == ["", "▁the"]
    with pytest.raises(IndexError):
        tokens[4]


def test_tensors_are_views_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    plain = {
        "f32": rng.standard_normal((3, 5)).astype(np.float32),
        "f16": rng.standard_normal((2, 2, 4)).astype(np.float16),
        "f64": rng.standard_normal(7),
        "i32": np.arange(4, dtype=np.int32),
    }
    file = read_gguf(write(tmp_path / "a.gguf", tensors=plain))
    assert list(file.tensors) == list(plain)
    for name, expected in plain.items():
        array = file.tensors[name].array()
        assert array.dtype == expected.dtype and not array.flags.writeable
        np.testing.assert_array_equal(array, expected)
    mapped = file.tensors["f32"].data
    assert np.shares_memory(mapped, file.tensors["f32"].array())
    with pytest.raises(CheckpointError, match=r"a.gguf: tensor 'i32' has type I32; needed"):
        file.tensors["i32"].floating()


def test_bfloat16(tmp_path):
    values = np.array([[1.5, -2], [0.25, 3]], np.float32).astype(ml_dtypes.bfloat16)
    file = read_gguf(write(tmp_path / "a.gguf", tensors={"w": ("BF16", values.view(np.uint8))}))
    assert file.tensors["w"].shape == (2, 2)
    np.testing.assert_array_equal(file.tensors["w"].floating(), values)


@pytest.mark.parametrize("code", BLOCKS)
def test_blocks(code, tmp_path):
    """Random bytes: the values are those of the package gguf, to the bit."""
    kind = gguf.GGMLQuantizationType[code]
    assert gguf.GGML_QUANT_SIZES[kind] == BLOCKS[code][:2] and _TYPES[kind.value] == code
    data = blocks(code, 6)
    expected = gguf.quants.dequantize(data.reshape(3, -1), kind)
    file = read_gguf(write(tmp_path / "a.gguf", tensors={"w": (code, data.reshape(3, -1))}))
    tensor = file.tensors["w"]
    assert (tensor.code, tensor.shape) == (code, expected.shape)
    got = tensor.floating()
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), expected.astype(np.float32).view(np.uint32))


def test_many_blocks_are_expanded_in_parts():
    data = blocks("Q4_K", 9000)
    whole = expand("Q4_K", data)
    np.testing.assert_array_equal(whole[-512:], expand("Q4_K", data[-2:]))


# --- broken files -----------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def entry(name="w", shape=(4,), kind=0, offset=0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def raw(values=(), tensors=(), version=3, data=bytes(64), magic=b"GGUF") -> bytes:
    """A file of metadata (key, type, bytes of the value) and entries of tensors."""
    head = magic + struct.pack("<IQQ", version, len(tensors), len(values))
    head += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in values)
    head += b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


BROKEN = [
    (b"", "is empty; needed: a GGUF file"),
    (b"GG", "the file's first bytes at byte 0 has 4 bytes, and 2 are left: the file is cut off"),
    (raw(magic=b"GGML"), "does not begin with 'GGUF'"),
    (raw(version=1), "has version 1; needed: version 2 or 3, little-endian"),
    (raw(version=3 << 24), "has big-endian numbers; needed: version 2 or 3, little-endian"),
    (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "a tensor's name at byte 24"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "a metadata key at byte 24"),
    (raw([("a", 4, bytes(4)), ("a", 4, bytes(4))]), "metadata has the key 'a' twice"),
    (raw([("a", 13, bytes(4))]), "metadata 'a' has the type 13; needed: one of 0 to 12"),
    (raw([("a", 7, b"\2")]), "metadata 'a' is the boolean 2; needed: 0 or 1"),
    (raw([("a", 9, struct.pack("<IQ", 7, 2) + b"\0\3")]), "metadata 'a' holds a boolean that is neither 0 nor 1"),
    (raw([("a", 9, struct.pack("<IQ", 9, 1))]), "metadata 'a' is an array of the type 9; needed: numbers"),
    (raw([("a", 9, struct.pack("<IQ", 4, 2**62))]), "metadata 'a' at byte 49 has 18446744073709551616 bytes"),
    (
        raw([("a", 9, struct.pack("<IQ", 8, 2**40))]),
        "is an array of 1099511627776 strings, which the file is too short",
    ),
    (raw([("a", 9, struct.pack("<IQQ", 8, 1, 2**50))]), "a string at byte 57 has 1125899906842624 bytes"),
    (raw([("a", 8, struct.pack("<Q", 2) + b"\xff\xfe")]), "the string at byte 45 is not UTF-8"),
    (raw([("general.alignment", 4, struct.pack("<I", 24))]), "'general.alignment' is 24; needed: a power of two"),
    (raw([("general.alignment", 8, text("32"))]), "'general.alignment' is '32'; needed: a power of two"),
    (raw(tensors=[entry(shape=(1, 1, 1, 1, 1))]), "tensor 'w' has 5 axes; needed: 4 at most"),
    (raw(tensors=[entry(kind=16)]), "tensor 'w' has type IQ2_XXS; supported: F32, "),
    (raw(tensors=[entry(kind=4)]), "tensor 'w' has type number 4; supported: F32, "),
    (raw(tensors=[entry(kind=12)]), r"tensor 'w' has shape \(4,\); needed by its type Q4_K: rows of whole 256 values"),
    (raw(tensors=[entry(shape=(), kind=2)]), r"tensor 'w' has shape \(\); needed by its type Q4_0"),
    (raw(tensors=[entry(offset=8)]), "tensor 'w' begins at offset 8; needed: a multiple of 32"),
    (raw(tensors=[entry(), entry()]), "there are two tensors 'w'|tensors 'w' and 'w' overlap"),
    (raw(tensors=[entry(), entry("v")]), "tensors '[wv]' and '[wv]' overlap"),
    (raw(tensors=[entry(shape=(17,))]), "tensor 'w' ends at byte [0-9]+, the file at [0-9]+: it is cut off"),
    (raw(tensors=[entry(shape=(2**63, 2**63))]), "tensor 'w' ends at byte .*: it is cut off"),
    (raw(tensors=[entry(offset=2**63)]), "tensor 'w' ends at byte .*: it is cut off"),
]


@pytest.mark.parametrize(("content", "said"), BROKEN, ids=[said[:60] for _, said in BROKEN])
def test_broken_file(content, said, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as error:
        read_gguf(path)
    assert str(error.value).startswith(f"{path}: ")


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="b.gguf: cannot be read: No such file"):
        read_gguf(tmp_path / "b.gguf")


NUMBERS = (0, 1, 2**31, 2**32, 2**40, 2**62, 2**64 - 1)


def mutated(content: bytes, rng) -> bytes:
    """The file with bytes, numbers or stretches of its header changed, or cut off."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(max(len(changed), 1)))
        choice = rng.integers(4)
        if choice == 0:
            changed[at : at + 1] = bytes([int(rng.integers(256))])
        elif choice == 1:
            changed[at : at + 8] = struct.pack("<Q", NUMBERS[rng.integers(len(NUMBERS))])
        elif choice == 2:
            del changed[at : at + int(rng.integers(1, 40))]
        else:
            del changed[max(at, 8) :]
    return bytes(changed)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.stress)])
def test_mutated_files(count, tmp_path):
    """An error or a file that can be read, with no more memory than twice the file and what Python takes anyway."""
    tensors = {"a": np.ones((3, 5), np.float32), "b": ("Q4_K", blocks("Q4_K", 3)), "c": ("MXFP4", blocks("MXFP4", 2))}
    content = write(tmp_path / "a.gguf", tensors=tensors).read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / "b.gguf", 0
    tracemalloc.start()
    try:
        for _ in range(count):
            path.write_bytes(mutated(content, rng))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                file = read_gguf(path)
                for value in file.metadata.values():
                    list(value) if isinstance(value, Strings) else value
            except CheckpointError as error:
                assert str(error).startswith(f"{path}: ")
                refused += 1
            else:
                assert all(len(tensor.data) <= len(content) for tensor in file.tensors.values())
            assert tracemalloc.get_traced_memory()[1] - before <= 2 * len(content) + 200_000
    finally:
        tracemalloc.stop()
    assert count / 4 < refused < count
