"""WAV files: the chunks of RIFF, and their samples as float32.

`files.sound` reads with it. PCM and floating-point samples are decoded here, without another package; a further coding
is a line in `_DECODERS`. Sizes that a program could not go back to fill in, since it wrote to a pipe, are taken for
what the file holds.

Source: Microsoft's "Multiple channel audio data and WAVE files" (WAVE_FORMAT_EXTENSIBLE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PCM, FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE

# A size from here on (or 0) was written before the size was known: 0xFFFFFFFF by ffmpeg, almost 2**31 by sox.
_UNKNOWN = 0x7FFF0000


class UnknownCoding(ValueError):
    """The samples are coded in a way that is not read here."""


@dataclass(frozen=True)
class Header:
    """What the chunk "fmt " says: the coding, and bytes of a sample of one channel."""

    coding: int
    channels: int
    rate: int
    width: int


def is_wav(content: bytes) -> bool:
    return content[:4] == b"RIFF" and content[8:12] == b"WAVE"


def read(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """The samples (n, channels), float32, and their rate in Hz, of the bytes of a WAV file; `name` is for errors.

    Raises:
        ValueError: it is no WAV file, has no sound, or is cut off.
        UnknownCoding: its samples are neither PCM nor floats.
    """
    if not content:
        raise ValueError(f"{name}: holds 0 bytes; needed: a WAV file")
    if not is_wav(content):
        raise ValueError(f"{name}: begins with {content[:12]!r}; needed: a WAV file (RIFF ... WAVE)")
    header = None
    for chunk, start, size in _chunks(content):
        if chunk == b"fmt ":
            header = _header(content[start : start + size], name)
        elif chunk == b"data":
            if header is None:
                raise ValueError(f"{name}: has no chunk 'fmt ' before its sound; needed: a WAV file")
            return _samples(content, start, size, header, name), header.rate
    raise ValueError(f"{name}: has no chunk {'data' if header else 'fmt '!r}, so no sound; needed: a whole WAV file")


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(id, place, size) of each chunk, as the file says."""
    place = 12
    while place + 8 <= len(content):
        chunk, size = struct.unpack_from("<4sI", content, place)
        yield chunk, place + 8, size
        place += 8 + size
        # A chunk of odd size is followed by a byte of padding, which some programs forget.
        if size % 2 and not content[place : place + 1].isalpha():
            place += 1


def _header(chunk: bytes, name: str) -> Header:
    if len(chunk) < 16:
        raise ValueError(f"{name}: its chunk 'fmt ' has {len(chunk)} bytes; needed: at least 16")
    coding, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if coding == _EXTENSIBLE and len(chunk) >= 26:
        (coding,) = struct.unpack_from("<H", chunk, 24)  # the first two bytes of the format's GUID
    if channels < 1 or rate < 1:
        raise ValueError(f"{name}: has {channels} channels at {rate} Hz; needed: at least one of both")
    # The samples of 12, 20 or 24 bits may stand in larger containers, at their upper end.
    width = block // channels if block and block % channels == 0 else (bits + 7) // 8
    return Header(coding, channels, rate, width)


def _samples(content: bytes, start: int, size: int, header: Header, name: str) -> np.ndarray:
    decode = _DECODERS.get((header.coding, header.width))
    if decode is None:
        raise UnknownCoding(
            f"{name}: its samples have coding {header.coding:#06x} and {8 * header.width} bits; "
            "needed: PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64"
        )
    held = len(content) - start
    (riff,) = struct.unpack_from("<I", content, 4)
    # A size of 0 is true where chunks follow that the whole file's size counts.
    unknown = size >= _UNKNOWN or (size == 0 and (riff == 0 or riff >= _UNKNOWN or 8 + riff <= start))
    if not unknown and size > held:
        raise ValueError(f"{name}: is cut off: it holds {held} bytes of sound; needed by its header: {size}")
    size = min(size, held) if not unknown else held
    frame = header.width * header.channels
    size -= size % frame
    return decode(content[start : start + size]).reshape(-1, header.channels)


def _unsigned_8(data: bytes) -> np.ndarray:
    return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128


def _signed_24(data: bytes) -> np.ndarray:
    # The three bytes become the upper ones of four: the value times 256.
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return (wide.view("<i4")[:, 0] / np.float64(2**31)).astype(np.float32)


def _signed(width: int):
    return lambda data: (np.frombuffer(data, f"<i{width}") / np.float64(2 ** (8 * width - 1))).astype(np.float32)


def _floats(width: int):
    return lambda data: np.frombuffer(data, f"<f{width}").astype(np.float32)


# (coding, bytes of a sample) -> samples in [-1, 1). Floats are taken as they are.
_DECODERS = {
    (PCM, 1): _unsigned_8,
    (PCM, 2): _signed(2),
    (PCM, 3): _signed_24,
    (PCM, 4): _signed(4),
    (FLOAT, 4): _floats(4),
    (FLOAT, 8): _floats(8),
}
