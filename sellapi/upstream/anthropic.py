"""Anthropic's Messages API as an upstream (wire notes 5): pure translation.

``anthropic-version`` is pinned to 2023-06-01: the newer one differs only in refusing sampling
parameters that older models still take. Each adapter keeps a bounded memory of thinking blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sellapi.domain.usage import Usage
from sellapi.errors import InvalidRequest
from sellapi.upstream.adapter import (
    Answer,
    Job,
    Outbound,
    StreamDecoder,
    TextCount,
    UpstreamFailure,
)
from sellapi.upstream.anthropic_failure import http_failure, stream_failure
from sellapi.upstream.anthropic_messages import media_urls
from sellapi.upstream.anthropic_reply import Gathered, merge_usage, read_usage
from sellapi.upstream.anthropic_request import encode_chat
from sellapi.upstream.anthropic_thinking import ThoughtsMemory
from sellapi.upstream.openai_failure import garbage, truncated
from sellapi.upstream.openai_shape import (
    ChunkWriter,
    JsonObject,
    arguments_text,
    exact_loads,
    parse_chat,
    refusing_depth,
)
from sellapi.wire.sse import EventTooLong, Splitter

__all__ = ["VERSION", "AnthropicAdapter"]

VERSION = "2023-06-01"
_PATH = "/v1/messages"
_PING = b": ping\n\n"


class AnthropicAdapter:
    """The translator; one per provider, so that its memory is not shared between providers."""

    takes_urls = True

    def __init__(self, memory: ThoughtsMemory | None = None) -> None:
        self._memory = memory or ThoughtsMemory()

    # ---------------------------------------------------------------------- encode request

    def headers(self, secret: str | None) -> dict[str, str]:
        """The headers every call carries, the credential among them."""
        headers = {
            "anthropic-version": VERSION,
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        return {**headers, "x-api-key": secret} if secret else headers

    def media_urls(self, job: Job) -> dict[str, str]:
        """Anthropic fetches URLs itself; one at a private base URL must not."""
        if job.mode != "chat" or not job.private_base_url:
            return {}
        return media_urls(parse_chat(job).messages)

    def encode(self, job: Job) -> Outbound:
        """The Messages request; raises `InvalidRequest` naming what it cannot do."""
        if job.mode != "chat":
            what = "embeddings" if job.mode == "embedding" else "images"
            raise InvalidRequest(
                f"This model makes no {what}: it is a chat model. Use another model.",
                param="model",
            )
        with refusing_depth(job):
            body, stream, thinks = encode_chat(job, self._memory)
        return Outbound(_PATH, body, stream, thinks=thinks)

    def probe(self, upstream_id: str) -> Outbound:
        """The cheapest real call: one output token."""
        body: JsonObject = {
            "model": upstream_id,
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "Hi"}],
        }
        return Outbound(_PATH, orjson.dumps(body), stream=False)

    # ---------------------------------------------------------------------- decode reply

    def decode(self, job: Job, bodies: list[bytes]) -> Answer:
        """One Message; raises `UpstreamFailure` for an error under a 200 or a senseless body."""
        reply = _object(bodies[0], "an answer that is not JSON")
        if reply.get("type") == "error" or "error" in reply:
            raise stream_failure(reply.get("error"))
        blocks = reply.get("content")
        if not isinstance(blocks, list):
            raise garbage("an answer without content")
        gathered = Gathered(job, self._memory, keep=True)
        for block in blocks:
            _gather(gathered, block)
        gathered.finish(reply.get("stop_reason"), reply.get("stop_details"))
        return gathered.answer(read_usage(reply.get("usage")))

    # ---------------------------------------------------------------------- decode stream

    def decoder(self, job: Job) -> StreamDecoder:
        """A fresh decoder for one stream."""
        return AnthropicStream(job, self._memory)

    # ---------------------------------------------------------------------- map errors

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailure:
        """What a reply that is not a 2xx means; header names are lower-case."""
        return http_failure(status, headers, body)


def _object(data: bytes, otherwise: str) -> JsonObject:
    try:
        value = exact_loads(data)
    except ValueError as error:
        raise garbage(otherwise) from error
    if not isinstance(value, dict):
        raise garbage(otherwise)
    return value


def _gather(gathered: Gathered, block: Any) -> None:
    """One whole content block; what is unknown is skipped and counted."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text" and isinstance(block.get("text"), str):
        gathered.start_text()
        gathered.text(block["text"])
    elif kind == "tool_use" and isinstance(block.get("id"), str):
        arguments = arguments_text(block.get("input"))
        gathered.mark_call()
        gathered.count.add(f"{block.get('name', '')}{arguments}")
        gathered.call(block["id"], str(block.get("name", "")), arguments)
    elif kind == "thinking" and isinstance(block.get("thinking"), str):
        if block["thinking"]:
            gathered.reasoning(block["thinking"])
        if isinstance(block.get("signature"), str) and block["signature"]:
            gathered.thought({k: block[k] for k in ("type", "thinking", "signature")})
    elif kind == "redacted_thinking" and isinstance(block.get("data"), str):
        gathered.thought({"type": kind, "data": block["data"]})
    else:
        gathered.skipped += 1


def _index(event: JsonObject) -> int:
    """A block's index; whatever is no number stands for one block."""
    index = event.get("index")
    return index if type(index) is int else -1


class _Block:
    """A content block of a stream that is still open, or waits for its turn."""

    __slots__ = ("call", "closed", "id", "input", "kind", "name", "pieces", "signature", "started")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.signature: list[str] = []
        self.id = self.name = ""
        self.input: Any = None
        self.call = -1
        self.started = self.closed = False


class AnthropicStream:
    """A stream of Messages events on its way to OpenAI's chunks (wire notes 1.7, 5.4, 5.7).

    ``usage`` is set with message_start, so that an aborted stream's input is known; its output is
    final only once ``finish_reasons`` is filled. It is None again when no final figure came.
    """

    def __init__(self, job: Job, memory: ThoughtsMemory) -> None:
        self.usage: Usage | None = None
        self.finish_reasons: dict[int, str] = {}
        self.done = False
        self.pending = b""
        self.skipped = 0
        self._gathered = Gathered(job, memory, keep=not job.stream)
        self.text: TextCount = self._gathered.count
        self._writer = ChunkWriter(job)
        self._splitter = Splitter()
        self._blocks: dict[int, _Block] = {}
        self._calls: list[_Block] = []
        """Calls not yet written to their end, in order; the first one is being written."""
        self._call_count = 0
        self._out: list[bytes] = []
        self._role_said = False
        self._start_usage: JsonObject = {}
        self._final_usage = False
        self._stop: tuple[Any, Any] = (None, None)

    # The protocol of `StreamDecoder`

    def feed(self, data: bytes) -> bytes:
        """Bytes to forward for these bytes received; raises `UpstreamFailure`."""
        try:
            events = self._splitter.feed(data)
        except EventTooLong as error:
            raise garbage("an event without end") from error
        return self._take(events)

    def end(self) -> bytes:
        """The upstream closed; raises `UpstreamFailure` if message_stop never came."""
        out = self._take([] if self.done else self._splitter.end(), closing=True)
        if not self.done:
            self.pending = out
            raise truncated()
        return out

    def usage_chunk(self, usage: dict[str, Any], extra: dict[str, Any]) -> bytes:
        """The last chunk for clients that asked for usage."""
        return self._writer.usage_chunk(usage, extra)

    def answer(self) -> Answer:
        """All that was received as one unstreamed answer."""
        self._gathered.skipped = self.skipped
        return self._gathered.answer(self.usage)

    # Events

    def _take(self, events: list[bytes], *, closing: bool = False) -> bytes:
        self.pending = b""
        self._out = []
        try:
            for data in events:
                if self.done:
                    break
                try:
                    event = orjson.loads(data)
                except ValueError as error:
                    if closing:  # the last event was cut: that is a truncation
                        break
                    if data.strip() in {b"", b"[DONE]"}:
                        continue
                    raise garbage("an event that is not JSON") from error
                self._event(event)
        except UpstreamFailure:
            self.pending = b"".join(self._out)
            raise
        return b"".join(self._out)

    def _event(self, event: Any) -> None:
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "content_block_delta":
            self._delta(_index(event), event.get("delta"))
        elif kind == "ping":
            # Before the answer has begun it would be our 200: an error may still come first.
            if self._role_said:
                self._out.append(_PING)
        elif kind == "content_block_start":
            self._block_start(_index(event), event.get("content_block"))
        elif kind == "content_block_stop":
            self._block_stop(_index(event))
        elif kind == "message_start":
            self._message_start(event.get("message"))
        elif kind == "message_delta":
            self._message_delta(event)
        elif kind == "message_stop":
            self._message_stop()
        elif kind == "error" or (isinstance(event, dict) and "error" in event):
            raise stream_failure(event.get("error"))
        else:
            self.skipped += 1

    def _message_start(self, message: Any) -> None:
        usage = message.get("usage") if isinstance(message, dict) else None
        if isinstance(usage, dict):
            self._start_usage = usage
            self.usage = read_usage(usage)
        self._say_role()

    def _say_role(self) -> None:
        if not self._role_said:
            self._role_said = True
            self._out.append(self._writer.role())

    def _block_start(self, index: int, content: Any) -> None:
        self._say_role()
        content = content if isinstance(content, dict) else {}
        block = _Block(str(content.get("type")))
        self._blocks[index] = block
        if block.kind == "text":
            self._gathered.start_text()
            if isinstance(text := content.get("text"), str) and text:
                self._text(text)
        elif block.kind == "tool_use" and isinstance(content.get("id"), str):
            block.id, block.name = content["id"], str(content.get("name", ""))
            block.input = content.get("input")
            self._gathered.mark_call()
            self.text.add(block.name)
            self._calls.append(block)
            self._write_calls()
        elif block.kind == "thinking":
            self._thinking(block, content.get("thinking"))
            if isinstance(signature := content.get("signature"), str):
                block.signature.append(signature)
        elif block.kind == "redacted_thinking" and isinstance(content.get("data"), str):
            self._gathered.thought({"type": "redacted_thinking", "data": content["data"]})
        else:
            block.kind = "skipped"
            self.skipped += 1

    def _delta(self, index: int, delta: Any) -> None:
        block = self._blocks.get(index)
        if block is None or not isinstance(delta, dict):
            self.skipped += 1
            return
        kind = delta.get("type")
        if kind == "text_delta" and block.kind == "text":
            if isinstance(text := delta.get("text"), str) and text:
                self._text(text)
        elif kind == "input_json_delta" and block.kind == "tool_use":
            if isinstance(piece := delta.get("partial_json"), str) and piece:
                self._arguments(block, piece)
        elif kind == "thinking_delta" and block.kind == "thinking":
            self._thinking(block, delta.get("thinking"))
        elif kind == "signature_delta" and block.kind == "thinking":
            if isinstance(signature := delta.get("signature"), str):
                block.signature.append(signature)
        elif block.kind != "skipped" and kind != "citations_delta":
            self.skipped += 1

    def _text(self, text: str) -> None:
        self._gathered.text(text)
        self._out.append(self._writer.text(text))

    def _thinking(self, block: _Block, text: Any) -> None:
        if isinstance(text, str) and text:
            block.pieces.append(text)
            self._gathered.reasoning(text)
            self._out.append(self._writer.reasoning(text))

    def _block_stop(self, index: int) -> None:
        block = self._blocks.pop(index, None)
        if block is not None:
            self._close(block)

    def _close(self, block: _Block) -> None:
        block.closed = True
        if block.kind == "tool_use":
            self._write_calls()
        elif block.kind == "thinking" and (signature := "".join(block.signature)):
            self._gathered.thought(
                {"type": "thinking", "thinking": "".join(block.pieces), "signature": signature}
            )

    # Tool calls: one is written to its end before the next begins, whatever the provider does.

    def _arguments(self, block: _Block, piece: str) -> None:
        block.pieces.append(piece)
        self.text.add(piece)
        if block.started:
            self._out.append(self._writer.tool_arguments(block.call, piece))

    def _write_calls(self) -> None:
        while self._calls:
            block = self._calls[0]
            if not block.started:
                block.started = True
                block.call = self._call_count
                self._call_count += 1
                self._out.append(self._writer.tool_start(block.call, block.id, block.name))
                if waited := "".join(block.pieces):
                    self._out.append(self._writer.tool_arguments(block.call, waited))
            if not block.closed:
                return
            if not block.pieces:
                block.pieces.append(arguments_text(block.input))
                self._out.append(self._writer.tool_arguments(block.call, block.pieces[0]))
            self._gathered.call(block.id, block.name, "".join(block.pieces))
            del self._calls[0]

    # The end

    def _message_delta(self, event: JsonObject) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._start_usage = merge_usage(self._start_usage, usage)
            self._final_usage = type(usage.get("output_tokens")) is int or self._final_usage
            self.usage = read_usage(self._start_usage)
        delta = event.get("delta")
        if isinstance(delta, dict) and delta.get("stop_reason") is not None:
            self._finish(delta.get("stop_reason"), delta.get("stop_details"))

    def _finish(self, stop_reason: Any, stop_details: Any) -> None:
        if self.finish_reasons:
            return
        self._say_role()
        for block in list(self._blocks.values()):
            self._close(block)
        self._blocks.clear()
        extra = self._gathered.finish(stop_reason, stop_details)
        choice = self._gathered.choice
        if choice.refusal:
            self._out.append(self._writer.delta(b'{"refusal":%b}' % orjson.dumps(choice.refusal)))
        if extra:
            self._out.append(self._writer.delta(orjson.dumps({"extra_content": extra})))
        self._out.append(self._writer.finish(choice.finish_reason))
        self.finish_reasons[0] = choice.finish_reason

    def _message_stop(self) -> None:
        self._finish("tool_use" if self._call_count else "end_turn", None)
        if not self._final_usage:
            self.usage = None
        self.done = True
