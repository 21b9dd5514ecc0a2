"""OpenAI's chat shapes for the translators: answers as bytes, and the reading of requests.

Both translators (`anthropic`, `gemini`) read a request through `parse_chat` (`openai_chat`, whose
names are given on from here) and write chunks and completions through `ChunkWriter` and
`completion`. Nothing here knows a provider. Shapes: openai-python 3.54, wire notes 1.5 to 1.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from sellapi.domain.usage import Usage
from sellapi.upstream.adapter import Job
from sellapi.upstream.openai_chat import (
    EFFORTS,
    Chat,
    Message,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolChoice,
    asks_for_functions,
    field_value,
    parse_chat,
)
from sellapi.upstream.openai_failure import garbage
from sellapi.upstream.openai_parts import (
    AudioPart,
    FilePart,
    ImagePart,
    JsonObject,
    Part,
    TextPart,
    decode_data_url,
    exact_dumps,
    exact_loads,
    refuse,
)

__all__ = [
    "EFFORTS",
    "AudioPart",
    "Chat",
    "Choice",
    "ChunkWriter",
    "FilePart",
    "ImagePart",
    "JsonObject",
    "Message",
    "Part",
    "ResponseFormat",
    "TextPart",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "arguments_text",
    "completion",
    "decode_data_url",
    "exact_dumps",
    "exact_loads",
    "field_value",
    "openai_usage",
    "parse_chat",
    "refuse",
    "refusing_depth",
    "wire_id",
]


@contextmanager
def refusing_depth(job: Job) -> Iterator[None]:
    """Within: JSON nested deeper than can be written (254 levels) is a 400 that names the field."""
    try:
        yield
    except RecursionError:
        deepest = None
    except TypeError as error:  # orjson's word for it
        if "ecursion" not in str(error):
            raise
        deepest = next((n for n in ("tools", "response_format") if _too_deep(job, n)), None)
    else:
        return
    raise refuse("The request is nested too deeply.", deepest or "messages")


def _too_deep(job: Job, name: str) -> bool:
    try:
        orjson.dumps(field_value(job, name))
    except TypeError:
        return True
    return False


def arguments_text(value: Any) -> str:
    """A call's arguments object as JSON text, ``{}`` for none; raises `UpstreamFailure`."""
    if not isinstance(value, dict) or not value:
        return "{}"
    try:
        return exact_dumps(value).decode()
    except TypeError:
        raise garbage("a call that is nested too deeply") from None


def wire_id(job: Job) -> str:
    """The id of a completion and all of its chunks."""
    return "chatcmpl-" + job.request_id.removeprefix("req_").removeprefix("req-")


def openai_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's ``usage`` object for disjoint buckets (wire notes 1.6)."""
    writes = usage.cache_write + usage.cache_write_1h
    prompt, output = usage.total_input, usage.total_output
    details: dict[str, int] = {"cached_tokens": usage.cache_read}
    if writes:
        details["cache_write_tokens"] = writes
    if usage.audio_input:
        details["audio_tokens"] = usage.audio_input
    if usage.image_input:
        details["image_tokens"] = usage.image_input
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


@dataclass(slots=True)
class Choice:
    """One choice while it is gathered, from a whole answer or from a stream's pieces."""

    index: int = 0
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[JsonObject] = field(default_factory=list)
    """OpenAI tool calls; see `tool_call`."""
    refusal: str | None = None
    extra_content: JsonObject | None = None
    """Opaque data that is to come back with the message (signatures)."""
    finish_reason: str = "stop"
    logprobs: JsonObject | None = None
    null_content: bool = False
    """Without text the content is null, also when no tool was called (a blocked prompt)."""

    def tool_call(
        self, identifier: str, name: str, arguments: str, extra: JsonObject | None = None
    ) -> None:
        """Append a whole call; ``extra`` becomes its ``extra_content``."""
        call: JsonObject = {
            "id": identifier,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        if extra:
            call["extra_content"] = extra
        self.tool_calls.append(call)

    def as_json(self) -> JsonObject:
        """The choice of a ``chat.completion``."""
        content = "".join(self.text)
        message: JsonObject = {
            "role": "assistant",
            "content": content or (None if self.tool_calls or self.null_content else ""),
            "refusal": self.refusal,
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        if self.extra_content:
            message["extra_content"] = self.extra_content
        return {
            "index": self.index,
            "message": message,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
        }


def completion(job: Job, choices: Iterable[Choice], usage: Usage | None) -> bytes:
    """A whole ``chat.completion`` as JSON."""
    told = [choice.as_json() for choice in choices]
    if asks_for_functions(job):
        for choice in told:
            _tell_function(choice)
    body: JsonObject = {
        "id": wire_id(job),
        "object": "chat.completion",
        "created": job.created,
        "model": job.slug,
        "choices": told,
    }
    if usage is not None:
        body["usage"] = openai_usage(usage)
    return orjson.dumps(body)


def _tell_function(choice: JsonObject) -> None:
    """The call as clients of the deprecated ``functions`` read it."""
    calls = choice["message"].pop("tool_calls", None)
    if calls:
        choice["message"]["function_call"] = calls[0]["function"]
    choice["finish_reason"] = _function_finish(choice["finish_reason"])


def _function_finish(reason: str) -> str:
    return "function_call" if reason == "tool_calls" else reason


class ChunkWriter:
    r"""Writes the events of one stream, each ``data: {…}\n\n`` (wire notes 1.7).

    The order is the caller's duty: `role` once per choice, a call's `tool_start` once and before
    its `tool_arguments`, one call finished before the next begins, `finish` last.
    """

    __slots__ = ("_functions", "_head", "_middle", "_tail")

    def __init__(self, job: Job) -> None:
        self._functions = asks_for_functions(job)
        head = orjson.dumps(
            {
                "id": wire_id(job),
                "object": "chat.completion.chunk",
                "created": job.created,
                "model": job.slug,
            }
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._middle = self._head + b'{"index":0,"delta":'
        self._tail = (b'],"usage":null}' if job.include_usage else b"]}") + b"\n\n"

    def delta(
        self, delta: bytes, index: int = 0, finish: bytes = b"null", logprobs: bytes = b"null"
    ) -> bytes:
        """A chunk with this delta (JSON)."""
        start = self._middle if not index else self._head + b'{"index":%d,"delta":' % index
        return b"".join(
            (
                start,
                delta,
                b',"logprobs":',
                logprobs,
                b',"finish_reason":',
                finish,
                b"}",
                self._tail,
            )
        )

    def role(self, index: int = 0) -> bytes:
        return self.delta(b'{"role":"assistant","content":""}', index)

    def text(self, text: str, index: int = 0) -> bytes:
        return self.delta(b'{"content":' + orjson.dumps(text) + b"}", index)

    def reasoning(self, text: str, index: int = 0) -> bytes:
        return self.delta(b'{"reasoning_content":' + orjson.dumps(text) + b"}", index)

    def tool_start(
        self,
        call: int,
        identifier: str,
        name: str,
        arguments: str = "",
        *,
        extra: JsonObject | None = None,
        index: int = 0,
    ) -> bytes:
        """The chunk that opens call number ``call`` (dense from 0), id and name once."""
        if self._functions:
            opened = orjson.dumps({"name": name, "arguments": arguments})
            return b"" if call else self.delta(b'{"function_call":' + opened + b"}", index)
        item: JsonObject = {
            "index": call,
            "id": identifier,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        if extra:
            item["extra_content"] = extra
        return self.delta(b'{"tool_calls":[' + orjson.dumps(item) + b"]}", index)

    def tool_arguments(self, call: int, arguments: str, index: int = 0) -> bytes:
        if self._functions:
            piece = b'{"function_call":{"arguments":' + orjson.dumps(arguments) + b"}}"
            return b"" if call else self.delta(piece, index)
        piece = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}'
        return self.delta(piece % (call, orjson.dumps(arguments)), index)

    def extra(self, extra: JsonObject, index: int = 0) -> bytes:
        """Opaque data of the message; at most once per choice (helpers merge repeats badly)."""
        return self.delta(b'{"extra_content":' + orjson.dumps(extra) + b"}", index)

    def refusal(self, text: str, index: int = 0) -> bytes:
        return self.delta(b'{"refusal":' + orjson.dumps(text) + b"}", index)

    def finish(self, reason: str, index: int = 0) -> bytes:
        if self._functions:
            reason = _function_finish(reason)
        return self.delta(b"{}", index, b'"' + reason.encode() + b'"')

    def usage_chunk(self, usage: JsonObject, extra: JsonObject) -> bytes:
        """The last chunk: no choices, the usage, further top-level keys."""
        return self._head + b'],"usage":' + orjson.dumps(usage) + _members(extra) + b"}\n\n"


def _members(extra: JsonObject) -> bytes:
    return b"," + orjson.dumps(extra)[1:-1] if extra else b""
