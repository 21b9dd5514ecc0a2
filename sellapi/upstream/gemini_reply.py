"""What Gemini answers: parts, finish reasons, usage, errors (wire notes 6.5 to 6.8).

Streamed and whole answers are the same objects, so one `Reader` serves both. Protobuf's JSON leaves
out fields that hold their default: an absent count is zero, an absent list is empty.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from sellapi.domain.usage import MAX_COUNT, Usage
from sellapi.errors import ApiError, InvalidRequest, UpstreamFailed
from sellapi.upstream.adapter import Job, TextCount, UpstreamFailure
from sellapi.upstream.clean import clean_message
from sellapi.upstream.gemini_signatures import SignatureStore
from sellapi.upstream.openai_shape import JsonObject, arguments_text

__all__ = [
    "FILTERED",
    "Call",
    "Reader",
    "error_failure",
    "garbage",
    "gemini_usage",
    "parse_object",
]

# --- finish reasons (6.5, 6.7)

_LENGTH = frozenset(("MAX_TOKENS", "CONTINUATION"))
FILTERED = frozenset(
    (
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "OTHER",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_OTHER",
        "IMAGE_RECITATION",
        "NO_IMAGE",
        "ESCALATION",
        "PUP_LIMITED_DISABLED",
        "MODEL_ARMOR",
    )
)
_BROKEN = frozenset(
    (
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
    )
)


def _finish_reason(reason: str, calls: int) -> str:
    """OpenAI's finish_reason; Gemini says STOP after a functionCall too."""
    if reason in FILTERED:
        return "content_filter"
    if calls:
        return "tool_calls"
    return "length" if reason in _LENGTH else "stop"


# --- parts


@dataclass(frozen=True, slots=True)
class Call:
    """A whole function call; ``number`` is dense from 0 over the choice."""

    number: int
    id: str
    name: str
    arguments: str
    signature: str | None


Kind = Literal["text", "thought", "call", "logprobs"]
Piece = tuple[Kind, int, Any]
"""(kind, choice index, str | `Call` | logprob entries)."""


class _State:
    """What is remembered of one choice."""

    __slots__ = ("calls", "finish", "signature")

    def __init__(self) -> None:
        self.calls = 0
        self.finish: str | None = None
        self.signature: str | None = None


class Reader:
    """Reads GenerateContentResponse objects of one answer, one or many.

    ``usage`` is that of the last object that had any (a running total); ``skipped`` counts parts
    of kinds we do not know; ``blocked`` is set when the prompt was refused.
    """

    __slots__ = ("_ids", "_job", "_meta", "_signatures", "blocked", "skipped", "states", "text")

    def __init__(self, job: Job, signatures: SignatureStore) -> None:
        self._job = job
        self._signatures = signatures
        self._ids: set[str] = set()
        self.states: dict[int, _State] = {}
        self._meta: JsonObject | None = None
        self.text = TextCount()
        self.skipped = 0
        self.blocked = False

    @property
    def usage(self) -> Usage | None:
        """Worked out when asked for: every event of a stream brings a new total."""
        return gemini_usage(self._meta)

    @property
    def complete(self) -> bool:
        """Every choice seen has its finish reason, or the prompt was refused."""
        return self.blocked or (
            bool(self.states) and all(s.finish is not None for s in self.states.values())
        )

    def finish_reason(self, index: int) -> str:
        """OpenAI's finish_reason of a choice that is complete."""
        state = self.states[index]
        return _finish_reason(state.finish or "", state.calls)

    def pieces(self, data: JsonObject) -> Iterator[Piece]:
        """The pieces of one object, in order; raises `UpstreamFailure` for an error in it."""
        if "error" in data:
            raise error_failure(data["error"], None)
        meta = data.get("usageMetadata")
        if isinstance(meta, dict) and ("totalTokenCount" in meta or "promptTokenCount" in meta):
            self._meta = meta
        candidates = data.get("candidates")
        if candidates:
            if not isinstance(candidates, list):
                raise garbage()
            for candidate in candidates:
                if not isinstance(candidate, dict):
                    raise garbage()
                yield from self._candidate(candidate)
        elif not self.states:
            feedback = data.get("promptFeedback")
            if isinstance(feedback, dict) and feedback.get("blockReason"):
                self.blocked = True
                self.states[0] = state = _State()
                state.finish = "PROHIBITED_CONTENT"

    def _candidate(self, candidate: JsonObject) -> Iterator[Piece]:
        index = candidate.get("index", 0)
        if type(index) is not int or index < 0:
            raise garbage()
        state = self.states.get(index)
        if state is None:
            state = self.states[index] = _State()
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        if isinstance(parts, list):
            for part in parts:
                if isinstance(part, dict):
                    yield from self._part(index, state, part)
                else:
                    self.skipped += 1
        logprobs = candidate.get("logprobsResult")
        if isinstance(logprobs, dict):
            yield "logprobs", index, _logprobs(logprobs)
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason:
            if reason in _BROKEN:
                raise _broken(reason, candidate.get("finishMessage"))
            state.finish = reason

    def _part(self, index: int, state: _State, part: JsonObject) -> Iterator[Piece]:
        text = part.get("text")
        signature = part.get("thoughtSignature")
        if not isinstance(signature, str) or not signature:
            signature = None
        call = part.get("functionCall")
        if isinstance(call, dict):
            yield "call", index, self._call(state, call, signature)
            return
        if signature is not None and part.get("thought") is not True:
            state.signature = signature
        if isinstance(text, str):
            if text:
                self.text.add(text)
                yield "thought" if part.get("thought") is True else "text", index, text
        elif signature is None or len(part) > 1:
            self.skipped += 1

    def _call(self, state: _State, call: JsonObject, signature: str | None) -> Call:
        name, args, identifier = call.get("name"), call.get("args"), call.get("id")
        if not isinstance(name, str) or not name:
            raise garbage()
        if not isinstance(identifier, str) or not identifier or identifier in self._ids:
            identifier = "call_" + uuid.uuid4().hex[:24]
        self._ids.add(identifier)
        arguments = arguments_text(args)
        self.text.add(name)
        self.text.add(arguments)
        if signature is not None:
            self._signatures.put(
                self._job.account_tag, identifier, self._job.upstream_id, signature
            )
        number = state.calls
        state.calls += 1
        return Call(number, identifier, name, arguments, signature)


def _logprobs(result: JsonObject) -> list[JsonObject]:
    """``logprobsResult`` as the entries of OpenAI's ``logprobs.content``."""
    chosen = result.get("chosenCandidates")
    tops = result.get("topCandidates")
    entries: list[JsonObject] = []
    for position, item in enumerate(chosen if isinstance(chosen, list) else ()):
        entry = _logprob(item)
        top = tops[position] if isinstance(tops, list) and position < len(tops) else None
        others = top.get("candidates") if isinstance(top, dict) else None
        entry["top_logprobs"] = [_logprob(o) for o in others] if isinstance(others, list) else []
        entries.append(entry)
    return entries


def _logprob(item: Any) -> JsonObject:
    found = item if isinstance(item, dict) else {}
    token = found.get("token")
    token = token if isinstance(token, str) else ""
    value = found.get("logProbability")
    return {
        "token": token,
        "logprob": float(value) if isinstance(value, int | float) else 0.0,
        "bytes": list(token.encode("utf-8", "surrogatepass")),
    }


# --- usage (6.5, 6.7)


def _count(data: JsonObject, name: str) -> int:
    """A count; absent is zero, and so is what is no count. Protobuf may write it as a string."""
    value = data.get(name)
    if isinstance(value, str) and len(value) < 20 and value.isascii() and value.isdigit():
        value = int(value)
    return value if type(value) is int and value > 0 else 0


def _modality(data: JsonObject, name: str, modality: str) -> int:
    details = data.get(name)
    if not isinstance(details, list):
        return 0
    return sum(
        _count(item, "tokenCount")
        for item in details
        if isinstance(item, dict) and item.get("modality") == modality
    )


def gemini_usage(meta: Any) -> Usage | None:
    """Disjoint buckets of a ``usageMetadata``; None when it holds no counts, or no sane ones.

    - the prompt count includes what was read from cache; tool-use prompts are added to it.
    - images, video and documents in the prompt cost what text costs: they stay in ``input``.
    - thoughts are output; ``candidatesTokenCount`` holds them already when the total says so.
    - what the total has beyond all that was counted is output that was not itemised.
    """
    if not isinstance(meta, dict):
        return None
    prompt = _count(meta, "promptTokenCount")
    tool_use = _count(meta, "toolUsePromptTokenCount")
    candidates = _count(meta, "candidatesTokenCount")
    thoughts = _count(meta, "thoughtsTokenCount")
    total = _count(meta, "totalTokenCount")
    if not (prompt or candidates or thoughts or total):
        return None
    if max(prompt, tool_use, candidates, thoughts, total) > MAX_COUNT:
        return None
    cached = min(_count(meta, "cachedContentTokenCount"), prompt)
    audio = _modality(meta, "promptTokensDetails", "AUDIO")
    audio -= min(audio, _modality(meta, "cacheTokensDetails", "AUDIO"))
    audio = min(audio, prompt - cached)
    contained = thoughts > 0 and total == prompt + tool_use + candidates and candidates >= thoughts
    output = candidates if contained else candidates + thoughts
    if total > prompt + tool_use + output:
        if prompt or candidates or thoughts:
            output = total - prompt - tool_use
        else:
            prompt = total
    image = min(_modality(meta, "candidatesTokensDetails", "IMAGE"), candidates)
    image = min(image, output - min(thoughts, output))
    return Usage(
        input=prompt - cached - audio + tool_use,
        cache_read=cached,
        audio_input=audio,
        output=output - image,
        image_output=image,
        reasoning=min(thoughts, output - image),
        raw=orjson.dumps(meta),
    )


# --- errors (6.8)

_DEFAULT_WAIT_S = 30.0
"""For a rate limit that names no delay; customers are always told one."""

_OPERATORS_REASONS = frozenset(
    (
        "API_KEY_INVALID",
        "API_KEY_EXPIRED",
        "API_KEY_SERVICE_BLOCKED",
        "API_KEY_HTTP_REFERRER_BLOCKED",
        "API_KEY_IP_ADDRESS_BLOCKED",
        "BILLING_DISABLED",
        "CONSUMER_INVALID",
        "CONSUMER_SUSPENDED",
        "SERVICE_DISABLED",
    )
)
_OPERATORS_WORDS = (
    "api key not valid",
    "api key expired",
    "pass a valid api key",
    "enable billing",
    "location is not supported",
)
_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def parse_object(data: bytes) -> JsonObject:
    """A JSON object, also out of a one-element array; raises `UpstreamFailure` (garbage)."""
    try:
        value = orjson.loads(data)
    except ValueError as error:
        raise garbage() from error
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise garbage()
    return value


def garbage() -> UpstreamFailure:
    return UpstreamFailure(
        UpstreamFailed("The provider sent an answer that makes no sense. Try again."),
        reason="garbage",
    )


def _broken(reason: str, message: Any) -> UpstreamFailure:
    """The model wrote something that is no answer (a malformed call, say)."""
    told = f" ({clean_message(message)})" if isinstance(message, str) and message else ""
    return UpstreamFailure(
        UpstreamFailed(f"The model's answer was unusable: {reason}{told}. Try again."),
        reason="stream_error",
    )


def error_failure(
    error: Any, status: int | None, retry_after: float | None = None
) -> UpstreamFailure:
    """What an ``error`` object means; ``status`` is the HTTP status, None inside a 200."""
    found = error if isinstance(error, dict) else {}
    name = found.get("status")
    name = name if isinstance(name, str) else ""
    code = found.get("code")
    if status is None:
        status = code if type(code) is int and 400 <= code <= 599 else _STATUSES.get(name, 500)
    message = found.get("message")
    if not isinstance(message, str):
        message = error if isinstance(error, str) else ""
    refused = status in (401, 402, 403) or (status == 400 and _operators_trouble(found, message))
    delay = retry_after if retry_after is not None else _retry_delay(found)
    return UpstreamFailure(
        _told(status, name, clean_message(message), refused=refused, delay=delay),
        reason=f"status_{status}",
        retryable=refused or status in (404, 408, 409, 429, 499) or status >= 500,
        key_refused=refused,
        status=status,
        retry_after=delay,
    )


def _told(status: int, name: str, message: str, *, refused: bool, delay: float | None) -> ApiError:
    """What the client is told."""
    if refused:
        return UpstreamFailed(
            "The provider refused this gateway's own access. It is not your key: tell the operator.",
            should_retry=False,
        )
    if status == 404:
        return UpstreamFailed(
            "The provider does not know this model. Tell the operator, or use another model.",
            should_retry=False,
        )
    if status == 429:
        wait = max(1, math.ceil(_DEFAULT_WAIT_S if delay is None else delay))
        return UpstreamFailed(
            f"The provider of this model is rate limited. Try again in {wait} s.",
            retry_after=wait,
            should_retry=False if wait > 60 else None,
        )
    if 400 <= status < 500 and status not in (408, 409, 499):
        code = name or None
        if "exceeds the maximum number of tokens" in message:
            code = "context_length_exceeded"
        if status == 413:
            message = message or "The request is too large for the provider."
        return InvalidRequest(message or "The provider refused the request.", code=code)
    detail = f": {message.rstrip('.')}" if message else ""
    return UpstreamFailed(
        f"The provider of this model failed{detail}. Try again.",
        retry_after=None if delay is None else max(1, math.ceil(delay)),
    )


def _operators_trouble(error: JsonObject, message: str) -> bool:
    """Whether a 400 concerns our key, our billing or our place, not the request."""
    details = error.get("details")
    for item in details if isinstance(details, list) else ():
        if isinstance(item, dict) and item.get("reason") in _OPERATORS_REASONS:
            return True
    lowered = message.lower()
    return any(word in lowered for word in _OPERATORS_WORDS)


def _retry_delay(error: JsonObject) -> float | None:
    """Seconds of ``details[].retryDelay`` (google.rpc.RetryInfo: "30s", "1.5s")."""
    details = error.get("details")
    for item in details if isinstance(details, list) else ():
        delay = item.get("retryDelay") if isinstance(item, dict) else None
        if isinstance(delay, dict):
            delay = f"{delay.get('seconds', 0)}s"
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                seconds = float(delay[:-1])
            except ValueError:
                continue
            if 0 <= seconds < 86_400 * 7:
                return seconds
    return None
