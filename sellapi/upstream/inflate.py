"""Compressed replies, decoded piece by piece so that a small bomb stays small in memory.

We ask for `Accept-Encoding: identity`; some servers and proxies compress all the same (wire.md 1.2).
"""

from __future__ import annotations

import zlib
from typing import Self

from sellapi.errors import UpstreamFailed
from sellapi.upstream.adapter import UpstreamFailure

__all__ = ["Inflater"]

PIECE = 256 * 1024
"""Most bytes decoded at a time."""
SUSPICIOUS = 8 * 1024 * 1024
RATIO = 200
"""More than `SUSPICIOUS` bytes out of less than 1/200 of it is no text a model wrote."""

GZIP_MAGIC = 0x1F


class Inflater:
    """Bytes go in by `put`, decoded pieces of at most `PIECE` come out by `take` until it is b"".

    Raises `UpstreamFailure` ``garbage`` for data that is not what the header said, and for bombs.
    """

    __slots__ = ("_data", "_decoder", "_full", "_kind", "_received", "_written", "complete")

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._decoder: zlib._Decompress | None = None
        self._data = b""
        self._full = False
        self._received = 0
        self._written = 0
        self.complete = True
        """Whether the stream may end here: nothing came yet, or the end mark was seen."""

    @classmethod
    def named(cls, encoding: str) -> Self | None:
        """The decoder for a Content-Encoding; None for ``identity``."""
        name = encoding.strip().lower()
        if name in ("", "identity"):
            return None
        if name in ("gzip", "x-gzip"):
            return cls("gzip")
        if name == "deflate":
            return cls("deflate")
        raise _failure("The model's provider compressed its answer in a way nobody asked for.")

    def put(self, data: bytes) -> None:
        self._received += len(data)
        self._data += data
        self.complete = False

    def take(self) -> bytes:
        while self._full or self._data:
            if self._decoder is None and not self._start():
                break
            if piece := self._decode():
                return piece
        return b""

    def _decode(self) -> bytes:
        """One step; b"" when these bytes held no text (a header, an end mark)."""
        decoder = self._decoder
        assert decoder is not None
        try:
            piece = decoder.decompress(self._data, PIECE)
        except zlib.error:
            raise _failure("The model's provider sent a broken compressed answer.") from None
        self._full = len(piece) == PIECE and not decoder.eof
        self._data = decoder.unconsumed_tail
        if decoder.eof:
            self._next_member(decoder.unused_data)
        self._written += len(piece)
        if self._written > SUSPICIOUS and self._written > RATIO * self._received:
            raise _failure("The model's provider sent a compressed answer that is far too large.")
        return piece

    def _start(self) -> bool:
        """Choose the decoder; "deflate" means zlib, but some send it bare (RFC 9110, 8.4.1.2)."""
        if len(self._data) < 2:
            return False
        if self._kind == "gzip":
            bits = 16 + zlib.MAX_WBITS
        elif self._data[0] & 15 == zlib.DEFLATED and int.from_bytes(self._data[:2]) % 31 == 0:
            bits = zlib.MAX_WBITS
        else:
            bits = -zlib.MAX_WBITS
        self._decoder = zlib.decompressobj(bits)
        return True

    def _next_member(self, rest: bytes) -> None:
        """A gzip stream may be several, one after the other; any other rest is padding."""
        again = self._kind == "gzip" and rest[:1] == bytes([GZIP_MAGIC])
        self.complete = not again
        self._data = rest if again else b""
        self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)


def _failure(message: str) -> UpstreamFailure:
    return UpstreamFailure(UpstreamFailed(message), reason="garbage", retryable=False)
