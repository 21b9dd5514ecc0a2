"""Gemini's native protocol: generateContent, embeddings, images (wire notes 6).

Encode request, decode reply, decode stream, map errors; pure translation, no I/O. The request is
written in `gemini_request` and `gemini_contents`, replies are read in `gemini_reply`, images are
done in `gemini_images`. Sources: google-genai 3.4's types, Google's REST reference; API v1beta, as
LiteLLM and Vercel use it.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping
from typing import Any

import orjson

from sellapi.domain.usage import Usage
from sellapi.errors import UpstreamFailed
from sellapi.upstream.adapter import Answer, Job, Outbound, TextCount, UpstreamFailure
from sellapi.upstream.gemini_contents import media_urls_of
from sellapi.upstream.gemini_images import decode_images, encode_images
from sellapi.upstream.gemini_reply import (
    Call,
    Piece,
    Reader,
    error_failure,
    garbage,
    gemini_usage,
    parse_object,
)
from sellapi.upstream.gemini_request import chat_body, may_think, model_path
from sellapi.upstream.gemini_signatures import SignatureStore, extra_of
from sellapi.upstream.openai_shape import (
    Choice,
    ChunkWriter,
    JsonObject,
    completion,
    field_value,
    parse_chat,
    refuse,
    refusing_depth,
)
from sellapi.wire.sse import EventTooLong, Splitter

__all__ = ["GeminiAdapter", "GeminiStream"]


class GeminiAdapter:
    """`Adapter` for providers of kind gemini; base URL without a version.

    ``signatures`` outlives requests: it mends conversations whose client dropped a signature.
    """

    takes_urls = False

    def __init__(self, signatures: SignatureStore | None = None) -> None:
        self._signatures = SignatureStore() if signatures is None else signatures

    # encode request

    def headers(self, secret: str | None) -> dict[str, str]:
        """The key goes in a header, never in the URL, where logs would keep it."""
        found = {"content-type": "application/json"}
        if secret:
            found["x-goog-api-key"] = secret
        return found

    def media_urls(self, job: Job) -> dict[str, str]:
        """The http(s) URLs of images and files; Gemini gets their bytes inline."""
        messages = job.fields.get("messages")
        if job.mode != "chat" or messages is None:
            return {}
        raw = bytes(memoryview(messages))
        if b"image_url" not in raw and b'"file' not in raw:
            return {}  # most requests: spare them a second reading
        return media_urls_of(parse_chat(job))

    def encode(self, job: Job) -> Outbound:
        """The call for a job; raises `InvalidRequest` naming the field that cannot be done."""
        if job.mode == "embedding":
            return _encode_embeddings(job)
        if job.mode == "image":
            return encode_images(job)
        method = "streamGenerateContent?alt=sse" if job.stream else "generateContent"
        with refusing_depth(job):
            chat = parse_chat(job)
            body = chat_body(job, chat, self._signatures)
        thinks = may_think(chat.reasoning_effort, job.quirks.gemini)
        return Outbound(model_path(job.upstream_id, method), body, job.stream, thinks=thinks)

    def probe(self, upstream_id: str) -> Outbound | None:
        """One output token or one embedding; a model that draws is not asked."""
        name = upstream_id.removeprefix("models/")
        if name.startswith("imagen-") or "image" in name:
            return None
        content = {"role": "user", "parts": [{"text": "Hi"}]}
        method, body = (
            "generateContent",
            {
                "contents": [content],
                "generationConfig": {"maxOutputTokens": 1},
            },
        )
        if "embedding" in name:
            method, body = "batchEmbedContents", {"requests": [_embed_one(name, "Hi", None)]}
        return Outbound(model_path(upstream_id, method), orjson.dumps(body), stream=False)

    # decode reply

    def decode(self, job: Job, bodies: list[bytes]) -> Answer:
        """The client's answer; raises `UpstreamFailure` for an error or nonsense inside a 200."""
        if job.mode == "image":
            return decode_images(job, bodies)
        if job.mode == "embedding":
            return _decode_embeddings(job, [parse_object(body) for body in bodies])
        reply = parse_object(bodies[0])
        reader = Reader(job, self._signatures)
        choices = _Choices(job)
        for piece in reader.pieces(reply):
            choices.add(piece)
        if not reader.states:
            raise garbage()
        return choices.answer(reader)

    # decode stream

    def decoder(self, job: Job) -> GeminiStream:
        """A fresh decoder for one stream."""
        return GeminiStream(job, self._signatures)

    # map errors

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailure:
        """What a reply that is not a 2xx means (`error_failure`); its body may be no JSON."""
        try:
            found = parse_object(body)
        except UpstreamFailure:
            found = {}
        return error_failure(found.get("error"), status, _seconds(headers.get("retry-after")))


def _seconds(value: str | None) -> float | None:
    """A ``Retry-After`` in seconds; Google sends no dates."""
    return float(value) if value is not None and value.isascii() and value.isdigit() else None


# --- whole answers


class _Choices:
    """Gathers the pieces of an answer into OpenAI's choices."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._choices: dict[int, Choice] = {}

    def add(self, piece: Piece) -> None:
        kind, index, value = piece
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = Choice(index)
        if kind == "text":
            choice.text.append(value)
        elif kind == "thought":
            choice.reasoning.append(value)
        elif kind == "call":
            extra = extra_of(value.signature, self._job.upstream_id) if value.signature else None
            choice.tool_call(value.id, value.name, value.arguments, extra)
        elif choice.logprobs is None:
            choice.logprobs = {"content": value, "refusal": None}
        else:
            choice.logprobs["content"].extend(value)

    def answer(self, reader: Reader) -> Answer:
        """The completion; every choice the reader saw is in it, also an empty one."""
        choices: list[Choice] = []
        for index in sorted(reader.states):
            choice = self._choices.get(index) or Choice(index)
            choice.finish_reason = reader.finish_reason(index)
            choice.null_content = choice.finish_reason == "content_filter"
            signature = reader.states[index].signature
            if signature is not None:
                choice.extra_content = extra_of(signature, self._job.upstream_id)
            choices.append(choice)
        usage = reader.usage
        return Answer(
            body=completion(self._job, choices, usage),
            usage=usage,
            finish_reasons=tuple(choice.finish_reason for choice in choices),
            text=reader.text,
            skipped=reader.skipped,
        )


# --- streams


class GeminiStream:
    """`StreamDecoder` for ``:streamGenerateContent?alt=sse``.

    Google's streams have no end mark but their end: the finish chunk is held until the upstream
    closes, and ``done`` is set then. So a last object with only usage counts, a functionCall after
    the first finishReason is no surprise, and the connection can serve again.
    """

    def __init__(self, job: Job, signatures: SignatureStore) -> None:
        self._upstream_id = job.upstream_id
        self._writer = ChunkWriter(job)
        self._reader = Reader(job, signatures)
        self._splitter = Splitter()
        self._gathered = None if job.stream else _Choices(job)
        self._started: set[int] = set()
        self._head: bytes | None = b""
        self.finish_reasons: dict[int, str] = {}
        self.done = False
        self.pending = b""

    @property
    def usage(self) -> Usage | None:
        return self._reader.usage

    @property
    def text(self) -> TextCount:
        return self._reader.text

    @property
    def skipped(self) -> int:
        return self._reader.skipped

    def feed(self, data: bytes) -> bytes:
        """Chunks for these bytes; raises `UpstreamFailure`, what came before it in ``pending``."""
        self.pending = b""
        if self._head is not None:
            self._head = self._head[:_HEAD_MAX] + data[:_HEAD_MAX]
        out: list[bytes] = []
        try:
            for event in self._splitter.feed(data):
                self._event(event, out)
        except UpstreamFailure:
            self.pending = b"".join(out)
            raise
        except EventTooLong as error:
            raise garbage() from error
        return b"".join(out)

    def end(self) -> bytes:
        """The finish chunks; raises `UpstreamFailure` when a finishReason never came."""
        self.pending = b""
        out: list[bytes] = []
        try:
            self._last_event(out)
            if not self._reader.complete:
                if self._head:
                    _raise_unframed(self._head)
                raise _truncated()
        except UpstreamFailure:
            self.pending = b"".join(out)
            raise
        for index in sorted(self._reader.states):
            if index in self.finish_reasons:
                continue
            self._start(index, out)
            signature = self._reader.states[index].signature
            if signature is not None:
                extra = extra_of(signature, self._upstream_id)
                out.append(self._writer.extra(extra, index))  # noqa: S610 - not Django's
            reason = self.finish_reasons[index] = self._reader.finish_reason(index)
            out.append(self._writer.finish(reason, index))
        self.done = True
        return b"".join(out)

    def usage_chunk(self, usage: dict[str, Any], extra: dict[str, Any]) -> bytes:
        return self._writer.usage_chunk(usage, extra)

    def answer(self) -> Answer:
        """The whole answer, for a client that wanted no stream."""
        assert self._gathered is not None, "a streamed answer is not kept"
        return self._gathered.answer(self._reader)

    def _event(self, event: bytes, out: list[bytes]) -> None:
        if not event or event == b"[DONE]":
            return
        self._head = None
        reply = parse_object(event)
        for piece in self._reader.pieces(reply):
            if self._gathered is not None:
                self._gathered.add(piece)
            self._start(piece[1], out)
            out.append(self._chunk(piece))

    def _last_event(self, out: list[bytes]) -> None:
        """An event whose closing blank line never came: it counts when it is whole."""
        for event in self._splitter.end():
            try:
                parse_object(event)
            except UpstreamFailure as error:
                raise _truncated() from error
            self._event(event, out)

    def _start(self, index: int, out: list[bytes]) -> None:
        if index not in self._started:
            self._started.add(index)
            out.append(self._writer.role(index))

    def _chunk(self, piece: Piece) -> bytes:
        kind, index, value = piece
        if kind == "text":
            return self._writer.text(value, index)
        if kind == "thought":
            return self._writer.reasoning(value, index)
        if kind == "call":
            return self._call_chunk(value, index)
        logprobs = orjson.dumps({"content": value, "refusal": None})
        return self._writer.delta(b"{}", index, logprobs=logprobs)

    def _call_chunk(self, call: Call, index: int) -> bytes:
        extra = extra_of(call.signature, self._upstream_id) if call.signature else None
        return self._writer.tool_start(
            call.number, call.id, call.name, call.arguments, extra=extra, index=index
        )


def _raise_unframed(head: bytes) -> None:
    """An error under a 200 may come as plain JSON instead of an event."""
    if head.lstrip()[:1] not in (b"{", b"["):
        return
    try:
        found = parse_object(head)
    except UpstreamFailure:
        return
    if "error" in found:
        raise error_failure(found["error"], None)


def _truncated() -> UpstreamFailure:
    return UpstreamFailure(
        UpstreamFailed("The provider's answer broke off before it was complete. Try again."),
        reason="truncated",
    )


_HEAD_MAX = 65_536
"""Bytes kept of a stream until its first event, to read an error that is no event."""


# --- embeddings (6.8)


def _encode_embeddings(job: Job) -> Outbound:
    """One request element per input: several parts in one content would become one vector."""
    texts = _texts(field_value(job, "input"))
    dimensions = field_value(job, "dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise refuse("'dimensions' must be a positive integer.", "dimensions")
    if field_value(job, "encoding_format") not in (None, "float", "base64"):
        raise refuse("'encoding_format' must be float or base64.", "encoding_format")
    name = job.upstream_id.removeprefix("models/")
    bodies = [
        orjson.dumps({"requests": [_embed_one(name, text, dimensions) for text in batch]})
        for batch in _batches(texts)
    ]
    path = model_path(name, "batchEmbedContents")
    return Outbound(path, bodies[0], stream=False, more=tuple(bodies[1:]))


BATCH_MAX = 100
"""Most inputs one ``:batchEmbedContents`` takes (Google answers 400 beyond that)."""


def _batches(texts: list[str]) -> list[list[str]]:
    return [texts[start : start + BATCH_MAX] for start in range(0, len(texts), BATCH_MAX)]


def _embed_one(name: str, text: str, dimensions: int | None) -> JsonObject:
    found: JsonObject = {"model": f"models/{name}", "content": {"parts": [{"text": text}]}}
    if dimensions is not None:
        found["outputDimensionality"] = dimensions
    return found


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise refuse("'input' must be a string or a list of strings.", "input")
    if any(isinstance(item, int | list) for item in texts):
        raise refuse(
            "This model reads text, not token ids: send 'input' as a string or a list of strings.",
            "input",
        )
    if not all(isinstance(item, str) and item for item in texts):
        raise refuse("'input' must hold non-empty strings only.", "input")
    return texts


def _decode_embeddings(job: Job, replies: list[JsonObject]) -> Answer:
    """Vectors in input order; floats packed by us (little-endian float32) when base64 is wanted."""
    texts = _texts(field_value(job, "input"))
    batches = _batches(texts)
    if len(replies) != len(batches):
        raise garbage()
    found: list[Any] = []
    for reply, batch in zip(replies, batches, strict=True):
        if "error" in reply:
            raise error_failure(reply["error"], None)
        vectors = reply.get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != len(batch):
            raise garbage()
        found += vectors
    packed = field_value(job, "encoding_format") == "base64"
    data: list[JsonObject] = []
    for index, item in enumerate(found):
        values = item.get("values") if isinstance(item, dict) else None
        if not isinstance(values, list) or not values:
            raise garbage()
        vector = _pack(values) if packed else values
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = _embedding_usage(replies) or _counted(texts)
    tokens = usage.total_input
    body: JsonObject = {
        "object": "list",
        "data": data,
        "model": job.slug,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Answer(body=orjson.dumps(body), usage=usage)


def _embedding_usage(replies: list[JsonObject]) -> Usage | None:
    """What the replies report together; None unless each of them reports something."""
    usages = [usage for r in replies if (usage := gemini_usage(r.get("usageMetadata")))]
    if len(usages) != len(replies):
        return None
    raws = [usage.raw for usage in usages]
    return Usage(
        input=sum(usage.total_input for usage in usages),
        output=sum(usage.total_output for usage in usages),
        raw=raws[0] if len(raws) == 1 else b"[" + b",".join(raws) + b"]",
    )


def _counted(texts: list[str]) -> Usage:
    """Google rarely tells the tokens of embeddings: then what the client reads is our own count."""
    count = TextCount()
    for text in texts:
        count.add(text)
    return Usage(input=count.tokens, estimated=True)


def _pack(values: list[Any]) -> str:
    try:
        packed = struct.pack(f"<{len(values)}f", *values)
    except (struct.error, OverflowError) as error:
        raise garbage() from error
    return binascii.b2a_base64(packed, newline=False).decode("ascii")
