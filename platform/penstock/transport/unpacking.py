"""Bounds what a compressed message becomes: a kilobyte can unpack to gigabytes.

kombu unpacks a body as soon as it has read the message, before anybody could look at it.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression
from kombu.utils.encoding import ensure_bytes

#: Most bytes that a body may have when it is unpacked; inputs have a limit of their own, ``job.max_input_bytes``.
MOST_UNPACKED = 64 * 2**20


class TooLarge(ValueError):
    """The body would be larger than ``MOST_UNPACKED``."""


def bounded(decompressor: Callable[[], Any], most: int = MOST_UNPACKED) -> Callable[[Any], bytes]:
    """A decoder for kombu that stops at the bound."""

    def decode(body: Any) -> bytes:
        stream = decompressor()
        data: bytes = stream.decompress(ensure_bytes(body), most)
        if not stream.eof:
            raise TooLarge(f"unpacks to more than {most} bytes, or is cut short")
        return data

    return decode


def bound() -> None:
    """Bound the decoders of this process. Idempotent."""
    register: Any = compression.register
    register(zlib.compress, bounded(zlib.decompressobj), "application/x-gzip", aliases=["gzip", "zlib"])
    register(bz2.compress, bounded(bz2.BZ2Decompressor), "application/x-bz2", aliases=["bzip2", "bzip"])
    register(lzma.compress, bounded(lzma.LZMADecompressor), "application/x-lzma", aliases=["lzma", "xz"])
