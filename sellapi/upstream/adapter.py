"""The protocol every provider module speaks: pure translation, no I/O.

A provider module (`openai`, `anthropic`, `gemini`) has one class that satisfies `Adapter`, laid out
in the same order everywhere: encode request, decode reply, decode stream, map errors. It sees a
`Job` (what the customer asked for, checked and bounded) and bytes; `client.py` alone does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from sellapi.domain.catalog import Mode
from sellapi.domain.quirks import Quirks
from sellapi.domain.usage import Usage
from sellapi.errors import ApiError

__all__ = [
    "Adapter",
    "Answer",
    "Job",
    "Media",
    "Outbound",
    "StreamDecoder",
    "TextCount",
    "UpstreamFailure",
]


@dataclass(frozen=True, slots=True)
class Media:
    """A file fetched through the guard: its type without parameters, and its bytes."""

    mime: str
    data: bytes


@dataclass(slots=True)
class Job:
    """One request as an adapter sees it.

    ``fields`` is the client's body decoded once to ``{key: raw JSON value}``, billing fields
    checked; an adapter writes from it and never reads the original bytes again. ``output_limit`` is
    the most output tokens that were paid for (per choice); None means nothing has to be stated
    (embeddings, images). ``account_tag`` stands in for every user identifier sent upstream.
    """

    mode: Mode
    fields: dict[str, msgspec.Raw]
    slug: str
    upstream_id: str
    quirks: Quirks
    request_id: str
    created: int
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    output_limit: int | None = None
    client_stated_limit: bool = True
    """False when the client named no limit; ``output_limit`` is then stated only if ``bounded``."""
    bounded: bool = False
    """As `Priced.bounded`: the limit was not the client's choice and must be stated upstream."""
    account_tag: str = ""
    native: bool = False
    """The provider is the vendor of this protocol itself (api.openai.com), not a compatible one."""
    private_base_url: bool = False
    """The provider's base URL is private: media URLs must not reach it unguarded."""
    media: Mapping[str, Media] = field(default_factory=dict)
    """What `Adapter.media_urls` asked for, by URL."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """A call to a provider, relative to its base URL; no secret in it (see `Adapter.headers`)."""

    path: str
    body: bytes
    stream: bool
    """Whether the provider will answer with server-sent events (also when the client wants none)."""
    repeat: int = 1
    """How many times the call is made side by side (image models that make one per call).

    Of these, those that succeed are the answer.
    """
    more: tuple[bytes, ...] = ()
    """Further bodies for the same path, when one call cannot carry all; every one must succeed."""
    headers: Mapping[str, str] = field(default_factory=dict)
    thinks: bool = True
    """The model may think before it answers; False where the request, or nothing said, forbids it."""


class TextCount:
    """How much text came back, for the estimate of money.md: ASCII / 4 + other bytes / 2, up."""

    __slots__ = ("ascii", "other")

    def __init__(self) -> None:
        self.ascii = 0
        self.other = 0

    def add(self, text: str) -> None:
        if text.isascii():
            self.ascii += len(text)
        else:
            size = len(text.encode("utf-8", "surrogatepass"))
            plain = sum(1 for c in text if c < "\x80")
            self.ascii += plain
            self.other += size - plain

    @property
    def tokens(self) -> int:
        """Estimated tokens, rounded up."""
        return -(-(self.ascii + 2 * self.other) // 4)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, ready for the client.

    ``usage`` is None when the provider sent none; ``text`` then says how much was received, so that
    the gateway can count for itself. ``image_urls`` are places in ``body`` (an images answer) that
    hold a URL and must be fetched through the guard and inlined as b64_json.
    """

    body: bytes
    usage: Usage | None
    finish_reasons: tuple[str, ...] = ()
    text: TextCount = field(default_factory=TextCount)
    images: int = 0
    """Images delivered (k of n)."""
    image_urls: tuple[str, ...] = ()
    skipped: int = 0
    """Parts of the provider's answer that were not understood and left out."""


class UpstreamFailure(Exception):
    """A provider did not answer well; carries what the client is told and what the router may do.

    ``sent``: the request may have reached the provider and may be billed by it (anything not
    provably in the connect phase). ``retryable``: another route may be tried if nothing was
    forwarded yet (connect failure, 408, 429, 5xx, 529). ``timed_out``: a first-byte or idle deadline
    passed. ``key_refused``: the provider refused *our* key (401/403): the operator's trouble.
    ``reason`` is a short slug for logs and the receipt's attempts: ``connect``, ``status_503``,
    ``reset``, ``truncated``, ``timeout``, ``stream_error``, ``garbage``, ``queue_full``, ``config``.
    """

    def __init__(
        self,
        error: ApiError,
        *,
        reason: str,
        sent: bool = True,
        retryable: bool = True,
        timed_out: bool = False,
        key_refused: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {error.message}")
        self.error = error
        self.reason = reason
        self.sent = sent
        self.retryable = retryable
        self.timed_out = timed_out
        self.key_refused = key_refused
        self.status = status
        self.retry_after = retry_after


class StreamDecoder(Protocol):
    r"""Turns a provider's bytes, cut anywhere, into bytes for the client, chunk grammar of OpenAI.

    ``feed`` returns complete ``data: …\\n\\n`` events ready to send (b"" when nothing is complete
    yet), never a usage chunk and never ``[DONE]``: those are the gateway's, after the settlement.
    It raises `UpstreamFailure` when the provider reports an error or sends garbage; everything
    before it in the same bytes is then in ``pending`` and still to be forwarded.
    """

    @property
    def usage(self) -> Usage | None:
        """The provider's usage as far as it was reported."""
        ...

    @property
    def finish_reasons(self) -> Mapping[int, str]:
        """finish_reason by choice index, as far as forwarded."""
        ...

    @property
    def done(self) -> bool:
        """The provider said that its stream is complete (``[DONE]``, ``message_stop``, …)."""
        ...

    @property
    def text(self) -> TextCount:
        """How much text was forwarded."""
        ...

    @property
    def pending(self) -> bytes:
        """What is still to be forwarded when `feed` or `end` has raised."""
        ...

    @property
    def skipped(self) -> int: ...

    def feed(self, data: bytes) -> bytes:
        """Bytes to forward for these bytes received; raises `UpstreamFailure`."""
        ...

    def end(self) -> bytes:
        """The upstream closed. What remains to forward; raises `UpstreamFailure` if truncated."""
        ...

    def usage_chunk(self, usage: dict[str, Any], extra: dict[str, Any]) -> bytes:
        """The last chunk for clients that asked: ``choices: []``, OpenAI usage, extra keys."""
        ...

    def answer(self) -> Answer:
        """All that was received as one unstreamed answer (the client wanted no stream)."""
        ...


class Adapter(Protocol):
    """A provider's protocol."""

    takes_urls: bool
    """Whether the provider fetches files named by URL itself."""

    def headers(self, secret: str | None) -> dict[str, str]:
        """The headers every call carries, the credential among them."""
        ...

    def media_urls(self, job: Job) -> Mapping[str, str]:
        """URLs in the request that we must fetch before `encode`, and the place each stands at.

        Usually none. A place is named as in errors: ``messages[0].content[1].image_url.url``.
        """
        ...

    def encode(self, job: Job) -> Outbound:
        """The provider's request; raises `InvalidRequest` naming what it cannot do."""
        ...

    def decode(self, job: Job, bodies: list[bytes]) -> Answer:
        """A whole answer from the bodies of 200 replies, in the order of the calls.

        There are several when ``repeat`` > 1 or ``more`` was given.

        Raises `UpstreamFailure` for an error inside a 200 or a body that makes no sense.
        """
        ...

    def decoder(self, job: Job) -> StreamDecoder:
        """A fresh decoder for one stream."""
        ...

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailure:
        """What a reply that is not a 2xx means; header names are lower-case."""
        ...

    def probe(self, upstream_id: str) -> Outbound | None:
        """The cheapest real call that shows whether key, URL and model work (one output token).

        None for a model of images: there every call costs one.
        """
        ...
