"""PNG images as text, so that a page carries its pictures."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_COLOURS = {1: 0, 3: 2}  # the format's colour types by number of channels


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return an image (H, W, C) as the address of an ``<img>`` that holds all of it.

    Three channels are red, green and blue, one is grey; of any other number the mean is shown in grey.
    """
    return "data:image/png;base64," + base64.b64encode(encode(pixels)).decode()


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Return the bytes of a PNG file (ISO/IEC 15948), without filters; see `data_uri`."""
    if pixels.shape[2] not in _COLOURS:
        pixels = pixels.mean(axis=2, keepdims=True).round().astype(np.uint8)
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
