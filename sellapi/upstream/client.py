"""The seam to the network: a call goes out, a reply or a stream comes back.

Nothing else in the request path does I/O. Engines (pyreqwest, httpx, the in-process demo) satisfy
`Engine`; timeouts to connect, to the first byte and between bytes are kept here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Call", "Engine", "Reply"]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call: absolute URL, headers with the credential, body; deadlines in seconds."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    first_byte_s: float = 600.0
    idle_s: float = 600.0

    def __repr__(self) -> str:  # headers hold the provider's key
        return f"Call({self.url}, {len(self.body)} bytes)"


class Reply(Protocol):
    """A provider's reply whose head has arrived."""

    status: int
    headers: Mapping[str, str]
    """Header names in lower case."""

    async def chunk(self) -> bytes | None:
        """The next bytes as soon as they arrive; None at the end.

        Raises `UpstreamFailure` (``truncated``, ``reset`` or ``timeout``).
        """
        ...

    async def read(self, limit: int) -> bytes:
        """The rest of the body; raises `UpstreamFailure` when it is longer than ``limit`` bytes."""
        ...


class Engine(Protocol):
    """Something that carries calls to one provider, with its own connection pool."""

    def open(self, call: Call) -> AbstractAsyncContextManager[Reply]:
        """Send the call; leaving the context, or cancelling the task, aborts it at once.

        Raises `UpstreamFailure`: ``connect`` (provably never sent: ``sent=False``), ``queue_full``
        (503, ``sent=False``), ``reset`` (counts as sent), ``timeout``.
        """
        ...

    async def close(self) -> None: ...
