"""Providers that speak OpenAI's API: OpenAI itself and everything compatible (wire notes 1 to 3).

A pass-through: values go out with the bytes they came in, replies come back as they are, except for
what money, the shared account and the SDKs demand. Sections: encode request, decode reply, decode
stream, map errors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from sellapi.domain.quirks import quirks_for
from sellapi.errors import InvalidRequest
from sellapi.upstream.adapter import Answer, Job, Outbound, StreamDecoder, UpstreamFailure
from sellapi.upstream.openai_failure import garbage, http_failure, reported_failure
from sellapi.upstream.openai_media import decode_embeddings, decode_images
from sellapi.upstream.openai_media_urls import inline, named_urls
from sellapi.upstream.openai_reply import (
    decode_chunk,
    dumps,
    edit,
    is_null,
    loads,
    public_usage,
    read_usage,
    readable,
    rename,
)
from sellapi.upstream.openai_stream import OpenAIStream
from sellapi.wire.fields import shorten

__all__ = ["OpenAIAdapter"]

_PATHS = {
    "chat": "/chat/completions",
    "embedding": "/embeddings",
    "image": "/images/generations",
}
_LIMITS = ("max_completion_tokens", "max_tokens")
_IDENTIFIERS = ("user", "safety_identifier")
_CACHE_KEY_MAX = 64

_DRAWS = re.compile(r"image|dall-e|imagen|stable-?diffusion|sdxl|flux", re.IGNORECASE)
"""Ids of models of images, as far as a name tells; only `probe` asks."""
_THINKING = re.compile(r"(?i)(?!reasoning_effort\Z)(reason|think|template|budget|extra)")
_FILE_ID = re.compile(rb'"file_id"\s*:\s*(?!null)')
"""Exact for a key spelled plainly: inside a JSON string its quotes are escaped."""
_SENT_BACK = re.compile(
    rb'"(?:refusal|annotations|audio|function_call|parsed|parsed_arguments|index'
    rb'|reasoning(?:_content|_details)?|extra_content)"\s*:|"tool_calls"\s*:\s*(?:null|\[\s*\])'
)
_DROP_IF_NULL = ("refusal", "audio", "function_call", "tool_calls")
_DROP = ("annotations", "parsed")
_OURS = frozenset(("sellapi", "anthropic"))
"""Keys of an ``extra_content`` that a translator of ours wrote."""
_DROP_FOREIGN = ("reasoning_content", "reasoning", "reasoning_details", "extra_content")

_encode = msgspec.json.encode
_NULL = b"null"


class OpenAIAdapter:
    """Satisfies `Adapter` for chat, embeddings and images."""

    takes_urls = True

    def headers(self, secret: str | None) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
        }
        if secret:
            headers["authorization"] = f"Bearer {secret}"
        return headers

    def media_urls(self, job: Job) -> dict[str, str]:
        """None, the provider fetches; one in our own network must not (`openai_media_urls`)."""
        if job.mode != "chat" or not job.private_base_url or "messages" not in job.fields:
            return {}
        return named_urls(_value(job.fields["messages"], "messages"))

    # --- encode request

    def encode(self, job: Job) -> Outbound:
        out = {k: v for k, v in job.fields.items() if k not in ("stream", "stream_options")}
        out["model"] = _raw(job.upstream_id)
        _stand_in(out, job)
        if "n" in out or job.n != 1:
            out["n"] = _raw(job.n)
        if job.mode == "chat":
            _chat(out, job)
        elif job.mode == "image":
            out.pop("response_format", None)
            if job.quirks.openai.response_format:
                out["response_format"] = _raw("b64_json")
        stream = job.mode == "chat" and job.stream
        thinks = _thinks(out, job)
        return Outbound(path=_PATHS[job.mode], body=_encode(out), stream=stream, thinks=thinks)

    def probe(self, upstream_id: str) -> Outbound | None:
        """Few tokens of chat; a reasoning model may answer nothing visible: an answer too."""
        if _DRAWS.search(upstream_id):
            return None
        if "embed" in upstream_id:
            body: dict[str, Any] = {"model": upstream_id, "input": "Hi"}
            return Outbound(path=_PATHS["embedding"], body=orjson.dumps(body), stream=False)
        body = {
            "model": upstream_id,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_completion_tokens"
            if quirks_for("openai", upstream_id).openai.max_completion_tokens
            else "max_tokens": 16,
        }
        return Outbound(path=_PATHS["chat"], body=orjson.dumps(body), stream=False)

    # --- decode reply

    def decode(self, job: Job, bodies: list[bytes]) -> Answer:
        if len(bodies) != 1:
            raise garbage("more than one answer")
        body = readable(bodies[0])
        if job.mode == "embedding":
            return decode_embeddings(job, body)
        if job.mode == "image":
            return decode_images(job, body)
        if body[:1] != b"{" and body.lstrip()[:1] != b"{":
            return _events_unasked(job, body)
        return _completion(job, body)

    # --- decode stream

    def decoder(self, job: Job) -> StreamDecoder:
        return OpenAIStream(job)

    # --- map errors

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailure:
        return http_failure(status, headers, body)


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _value(raw: msgspec.Raw, name: str) -> Any:
    """A field's value; raises `InvalidRequest` when it is no JSON a provider could read."""
    try:
        return loads(bytes(raw))
    except ValueError:
        raise InvalidRequest(
            f"{name} is not valid JSON or nested too deeply.", param=name
        ) from None


def _given(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    return name in fields and bytes(fields[name]) != _NULL


def _stand_in(out: dict[str, msgspec.Raw], job: Job) -> None:
    """Users of many customers share one account upstream: only a hash of ours goes out."""
    tag = job.account_tag
    for name in _IDENTIFIERS:
        if name in out:
            if tag and _given(out, name):
                out[name] = _raw(tag)
            else:
                del out[name]
    if "prompt_cache_key" in out:
        key = f"{tag}-{_value(out.pop('prompt_cache_key'), 'prompt_cache_key')}" if tag else ""
        if len(key) > _CACHE_KEY_MAX:
            digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
            key = f"{tag[:40]}-{digest[:20]}"
        if key and _given(job.fields, "prompt_cache_key"):
            out["prompt_cache_key"] = _raw(key)


def _chat(out: dict[str, msgspec.Raw], job: Job) -> None:
    quirks = job.quirks.openai
    if "messages" in out:
        out["messages"] = _messages(_inlined(out["messages"], job), job.native)
    if quirks.store or "store" in out:
        out["store"] = _raw(False)
    _limit(out, job)
    if (
        job.native
        and quirks.tools_without_effort
        and not _given(out, "reasoning_effort")
        and _has_function_tools(out)
    ):
        out["reasoning_effort"] = _raw("none")
    if job.stream:
        out["stream"] = _raw(True)
        out["stream_options"] = _stream_options(job)


def _stream_options(job: Job) -> msgspec.Raw:
    raw = job.fields.get("stream_options")
    options = _value(raw, "stream_options") if raw is not None else None
    if not isinstance(options, dict):
        options = {}
    if "include_obfuscation" in options:
        options["include_obfuscation"] = False  # random bytes that we would only drop
    return msgspec.Raw(dumps(options | {"include_usage": True}))


def _limit(out: dict[str, msgspec.Raw], job: Job) -> None:
    """State one limit on the answer: the one that is paid for (of those stated, the smallest)."""
    stated = [name for name in _LIMITS if _given(out, name)]
    given = out[stated[0]] if stated else None
    for name in _LIMITS:
        out.pop(name, None)
    if given is None and not job.bounded:
        return
    # max_tokens is known by every provider that does not refuse it.
    name = stated[0] if len(stated) == 1 else "max_tokens"
    if job.quirks.openai.max_completion_tokens:
        name = "max_completion_tokens"
    out[name] = given if job.output_limit is None and given else _raw(job.output_limit)


def _thinks(out: Mapping[str, msgspec.Raw], job: Job) -> bool:
    """Whether the model may think, by the effort that is asked for (wire notes 1.3).

    Compatible providers have switches of their own beside it (``reasoning``, ``enable_thinking``, …).
    """
    if not job.quirks.hidden_thoughts or any(map(_THINKING.search, out)):
        return True
    if not _given(out, "reasoning_effort"):
        return job.quirks.openai.thinks_unasked
    return bool(_value(out["reasoning_effort"], "reasoning_effort") != "none")


def _has_function_tools(fields: Mapping[str, msgspec.Raw]) -> bool:
    if _given(fields, "functions"):
        return True
    if not _given(fields, "tools"):
        return False
    tools = _value(fields["tools"], "tools")
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("type", "function") == "function" for tool in tools
    )


# --- messages: by value, except for files of the shared account and what SDKs send back


def _inlined(raw: msgspec.Raw, job: Job) -> msgspec.Raw:
    """The messages with what the guard fetched in place of its URL."""
    if not job.media:
        return raw
    messages = _value(raw, "messages")
    inline(messages, job.media)
    return msgspec.Raw(dumps(messages))


def _messages(raw: msgspec.Raw, native: bool) -> msgspec.Raw:
    data, _ = shorten(raw)
    escapes = b"\\u" in data  # a key or role may be spelled with them
    if escapes or (b'"file_id"' in data and _FILE_ID.search(data)):
        _refuse_file_ids(_value(raw, "messages"))
    if not (escapes or b'"assistant"' in data) or not _SENT_BACK.search(data):
        return raw
    try:
        messages = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except msgspec.DecodeError:
        return raw  # not a list: the provider says what is wrong with it
    return msgspec.Raw(_encode([_message(message, native) for message in messages]))


def _message(raw: msgspec.Raw, native: bool) -> msgspec.Raw:
    """A message without what SDKs keep in the objects they return (wire notes 1.4).

    OpenAI itself refuses unknown keys; compatible providers may want their own ones back, but not
    those of another provider, which we wrote ourselves (`_OURS`).
    """
    if not _SENT_BACK.search(shorten(raw)[0]):
        return raw
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return raw
    if bytes(fields.get("role", b"")) != b'"assistant"':
        return raw
    for name in _DROP_IF_NULL:
        if not _given(fields, name):
            fields.pop(name, None)
    calls = _value(fields["tool_calls"], "messages") if _given(fields, "tool_calls") else None
    extras = [_value(fields["extra_content"], "messages")] if "extra_content" in fields else []
    if isinstance(calls, list):
        extras += [call.get("extra_content") for call in calls if isinstance(call, dict)]
    foreign = native or any(isinstance(e, dict) and _OURS & e.keys() for e in extras)
    for name in _DROP + (_DROP_FOREIGN if foreign else ()):
        fields.pop(name, None)
    if calls == []:  # vLLM and older SDKs say so where nothing was called; OpenAI refuses it
        del fields["tool_calls"]
    elif isinstance(calls, list):
        fields["tool_calls"] = msgspec.Raw(dumps([_call(call, foreign) for call in calls]))
    return _raw(fields)


def _call(call: Any, foreign: bool) -> Any:
    if not isinstance(call, dict):
        return call
    drop = ("index", "extra_content") if foreign else ("index",)
    call = {k: v for k, v in call.items() if k not in drop}
    if isinstance(call.get("function"), dict):
        call["function"] = {k: v for k, v in call["function"].items() if k != "parsed_arguments"}
    return call


def _refuse_file_ids(messages: Any) -> None:
    """Uploaded files live in the account all customers share. Raises `InvalidRequest`."""
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, part in enumerate(content if isinstance(content, list) else ()):
            if _holds_file_id(part):
                raise InvalidRequest(
                    "file_id is not available here: send the file itself as file_data.",
                    param=f"messages[{i}].content[{j}].file.file_id",
                )
        if _holds_file_id(message):
            raise InvalidRequest(
                "file_id is not available here: send the file itself as file_data.",
                param=f"messages[{i}]",
            )


def _holds_file_id(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("file_id") is not None or any(map(_holds_file_id, value.values()))
    return isinstance(value, list) and any(map(_holds_file_id, value))


# --- replies


def _completion(job: Job, body: bytes) -> Answer:
    try:
        reply = decode_chunk(body)
    except ValueError:
        raise garbage("an answer that is no JSON") from None
    if not is_null(reply.error):
        raise reported_failure(loads(bytes(reply.error)), "error_in_200")
    if reply.choices is None:
        if reply.object == "error":
            raise reported_failure(loads(body), "error_in_200")
        raise garbage("no completion")
    usage = read_usage(bytes(reply.usage))
    if not reply.choices and usage is None:
        raise garbage("an empty answer")
    out = rename(body, reply.model, orjson.dumps(job.slug))
    raw = bytes(reply.usage)
    if usage is not None and (public := public_usage(raw)) is not raw:
        out = edit(out, {"usage": public})
    answer = Answer(
        body=out,
        usage=usage,
        finish_reasons=tuple(choice.finish_reason or "" for choice in reply.choices),
    )
    for choice in reply.choices:
        if not is_null(choice.error) or choice.finish_reason == "error":
            raise reported_failure(loads(bytes(choice.error) or b"{}"), "error_in_200")
        if choice.message is not None:
            choice.message.count(answer.text)
    return answer


def _events_unasked(job: Job, body: bytes) -> Answer:
    """A provider that streams although nobody asked for a stream, or sends no answer at all."""
    if b"data:" not in body:
        raise garbage("an answer that is no JSON")
    decoder = OpenAIStream(job)
    decoder.feed(body)
    decoder.end()
    return decoder.answer()
