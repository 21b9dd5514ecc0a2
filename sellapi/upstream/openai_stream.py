r"""One stream of an OpenAI-compatible provider, passed on as it comes (wire notes 1.2 and 1.7).

Changed on the way are ``model``, ``usage`` (withheld for the last chunk, null before it for those
who asked, gone for the others), ``obfuscation`` (dropped), and what breaks the official SDKs: a
role, call id or call name said twice, call indexes that do not count from 0, a choice that
``[DONE]`` leaves without a finish_reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from sellapi.domain.usage import Usage
from sellapi.upstream.adapter import Answer, Job, TextCount, UpstreamFailure
from sellapi.upstream.openai_failure import garbage, reported_failure, truncated
from sellapi.upstream.openai_gather import gather, split_completion
from sellapi.upstream.openai_reply import (
    ABSENT,
    Call,
    Choice,
    Chunk,
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
from sellapi.wire import sse

__all__ = ["OpenAIStream"]

_ROLE = b'"role":"assistant",'
_NULL_USAGE = b',"usage":null'
_NULL_USAGE_LAST = b',"usage":null}'
_CHOICES = b'"choices":['
_EVENT, _END = b"data: ", b"\n\n"
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))
"""Bytes of a text that stand for themselves in JSON."""
_FRAMES_MAX = 4
"""Frames are looked for so often: where each event differs from the last, looking costs and never helps."""


class OpenAIStream:
    """Satisfies `StreamDecoder`."""

    def __init__(self, job: Job) -> None:
        self.usage: Usage | None = None
        self.finish_reasons: dict[int, str] = {}
        self.done = False
        self.text = TextCount()
        self.pending = b""
        self.skipped = 0
        self._job = job
        self._model = orjson.dumps(job.slug)
        self._head_in = b""
        """How this provider's chunks begin, up to the choices, and how ours do in their place."""
        self._head_out = b""
        self._frame: _Frame | None = None
        """An event that was a piece of text and nothing else, without that text."""
        self._frames_left = _FRAMES_MAX
        self._ask = job.include_usage
        self._splitter = sse.Splitter()
        self._plain: list[bytes] | None = []
        """The bytes so far while they may be plain JSON instead of events; None once they are not."""
        self._usage_raw = b""
        self._usage_event = b""
        self._newest = b""
        """The last events that were chunks, as they went out."""
        self._seen: dict[int, int] = {}
        """Choices seen, and how many tools each called."""
        self._roles: set[int] = set()
        self._calls: dict[tuple[int, int], _Call] = {}
        """By choice and the provider's call index."""
        self._kept: list[bytes] | None = None if job.stream else []

    def feed(self, data: bytes) -> bytes:
        if self._frame is not None and self._splitter.empty and (words := self._words(data)):
            return words
        if self._plain is not None and self._is_plain(data):
            return b""
        try:
            events = self._splitter.feed(data)
        except sse.EventTooLong:
            raise garbage("an endless event") from None
        return self._forward(events) if events else b""

    def end(self) -> bytes:
        if self._plain:
            return self._plain_answer(readable(b"".join(self._plain)))
        rest = self._splitter.end()
        try:
            tail = self._forward(rest) if rest else b""
        except UpstreamFailure as failure:
            if failure.reason == "garbage":  # an event cut by the end of the stream
                self.pending = b""
                raise truncated() from None
            raise
        if self.done:
            return tail
        if self._seen and all(index in self.finish_reasons for index in self._seen):
            self.done = True
            return tail
        self.pending = tail
        raise truncated()

    def usage_chunk(self, usage: dict[str, Any], extra: dict[str, Any]) -> bytes:
        """The provider's own last chunk if it sent one, else one made like the chunks before it.

        The provider's own ``usage`` goes out as it came; ``usage`` stands in when there was none.
        """
        raw = public_usage(self._usage_raw) if self.usage is not None else orjson.dumps(usage)
        put = {name: orjson.dumps(value) for name, value in extra.items()}
        put |= {"model": self._model, "choices": b"[]", "usage": raw}
        base = self._usage_event or self._last or self._head()
        return sse.data(edit(base, put, ("obfuscation", "error")))

    def answer(self) -> Answer:
        """What came as one ``chat.completion`` (for a client that wanted no stream)."""
        body = gather([loads(event) for event in self._kept or ()], self._job, self._usage_raw)
        return Answer(
            body=body,
            usage=self.usage,
            finish_reasons=tuple(self.finish_reasons[i] for i in sorted(self.finish_reasons)),
            text=self.text,
            skipped=self.skipped,
        )

    # --- one event

    def _forward(self, events: list[bytes]) -> bytes:
        out: list[bytes] = []
        try:
            for event in events:
                if self.done:
                    break  # nothing counts after [DONE]
                if words := self._words(sse.data(event)):
                    out.append(words)
                elif (chunk := self._chunk(event)) is not None:
                    out.append(sse.data(chunk))
        except UpstreamFailure:
            self.pending = b"".join(out)
            raise
        return b"".join(out)

    def _words(self, data: bytes) -> bytes:
        """Whole events that are pieces of text like the one before them, as they go out.

        b"" for anything else. Most events of an answer are such pieces. One that is the same up to
        the text's first quote and from its last one on, with plain text between, can only be the
        same JSON with another text.
        """
        frame = self._frame
        if frame is None or not data.startswith(frame.before) or not data.endswith(frame.after):
            return b""
        if len(data) < frame.size or self.done or self._kept is not None:
            return b""
        texts = data[len(frame.before) : -len(frame.after)].split(frame.between)
        said = texts[0] if len(texts) == 1 else b"".join(texts)
        if said.translate(None, _PLAIN):
            return b""
        self.text.ascii += len(said)
        out = frame.before_out + frame.between_out.join(texts) + frame.after_out
        self._newest = out
        return out

    @property
    def _last(self) -> bytes:
        """The last event that was a chunk, as it went out."""
        # A text may say "data: ", but holds no line end.
        last = self._newest.rfind(_END + _EVENT)
        at = 0 if last < 0 else last + len(_END)
        return self._newest[at + len(_EVENT) : -len(_END)]

    def _chunk(self, event: bytes) -> bytes | None:
        """The event to forward; None when it is withheld. Raises `UpstreamFailure`."""
        if event[:1] != b"{":
            event = event.strip()
            if event == b"[DONE]":
                return self._closing()
            if not event:
                return None
        event = readable(event)
        try:
            chunk = decode_chunk(event)
        except ValueError:
            raise garbage("an event that is no JSON object") from None
        if not is_null(chunk.error):
            raise reported_failure(loads(bytes(chunk.error)))
        if chunk.choices is None and chunk.object == "error":
            raise reported_failure(loads(event))
        if chunk.choices is None and is_null(chunk.usage):
            self.skipped += 1  # the JS SDK fails on a chunk without choices
            return None
        fixes: list[_Fix] = []
        for place, choice in enumerate(chunk.choices or ()):
            self._look(place, choice, fixes)
        has_usage = not is_null(chunk.usage)
        if has_usage:
            raw = bytes(chunk.usage)
            if (usage := read_usage(raw)) is not None:  # one that says nothing replaces none
                self.usage, self._usage_raw = usage, raw
            if not chunk.choices:
                self._usage_event = event
                return None
        came, event = event, self._rewrite(event, chunk, has_usage)
        if fixes:
            event = _repair(event, fixes)
        elif self._frames_left and not has_usage and (word := _only_word(chunk)):
            self._frames_left -= 1
            self._frame = _frame(word, came, event)
        if self._kept is not None:
            self._kept.append(event)
        self._newest = _EVENT + event + _END
        return event

    def _rewrite(self, event: bytes, chunk: Chunk, has_usage: bool) -> bytes:
        """Model, usage and obfuscation as the client is to see them, by editing the bytes."""
        if self._head_in and event.startswith(self._head_in):
            event = self._head_out + event[len(self._head_in) :]
        else:
            renamed = rename(event, chunk.model, self._model)
            self._learn_head(event, renamed)
            event = renamed
        if chunk.obfuscation is not ABSENT:
            event = _cut(event, b"obfuscation", bytes(chunk.obfuscation))
        said = b"" if chunk.usage is ABSENT else bytes(chunk.usage)
        if self._ask:
            if has_usage:
                return edit(event, {"usage": b"null"})
            if not said and event[-1:] == b"}":
                return event[:-1] + _NULL_USAGE + b"}"
        elif said:
            return _cut(event, b"usage", said)
        return event

    def _learn_head(self, event: bytes, renamed: bytes) -> None:
        """Equal first bytes of a JSON object mean equal first fields: those need no second look."""
        head, mark, _ = event.partition(_CHOICES)
        ours, ours_mark, _ = renamed.partition(_CHOICES)
        if mark and ours_mark and b'"model"' in head and head.count(b"{") == 1:
            self._head_in, self._head_out = head + mark, ours + mark

    def _look(self, place: int, choice: Choice, fixes: list[_Fix]) -> None:
        """Count and remember a choice's piece; add what would break the SDKs to ``fixes``."""
        index, delta = choice.index, choice.delta
        if not is_null(choice.error) or choice.finish_reason == "error":
            raise reported_failure(loads(bytes(choice.error) or b"{}"))
        if index not in self._seen:
            self._seen[index] = 0
        if delta is not None:
            delta.count(self.text)
            if delta.role is not None:
                if index in self._roles:
                    fixes.append(_Fix(place))
                self._roles.add(index)
            for position, call in enumerate(delta.tool_calls or ()):
                self._look_at_call(index, call, _Fix(place, position), fixes)
        if choice.finish_reason:
            self.finish_reasons[index] = choice.finish_reason

    def _look_at_call(self, choice: int, call: Call, fix: _Fix, fixes: list[_Fix]) -> None:
        part = call.function or call.custom
        name = (part.name or "") if part is not None else ""
        key = (choice, (fix.call or 0) if call.index is None else call.index)
        known = self._calls.get(key)
        if known is None or (call.id and known.id and call.id != known.id and name):
            # A new call; some providers give each of several calls the index 0.
            known = self._calls[key] = _Call(self._seen[choice])
            self._seen[choice] += 1
        fix.index = known.index
        fix.drop_id = bool(call.id and known.id)
        fix.drop_name = bool(name and known.name)
        known.id = known.id or call.id or ""
        known.name = known.name or name
        if fix.drop_id or fix.drop_name or call.index != known.index:
            fixes.append(fix)

    def _closing(self) -> bytes | None:
        """At ``[DONE]``: the finish_reason of choices that were left without one."""
        if not self._seen and not self._usage_raw:
            raise garbage("an empty answer")
        self.done = True
        missing = [index for index in self._seen if index not in self.finish_reasons]
        if not missing:
            return None
        choices = []
        for index in missing:
            reason = self.finish_reasons[index] = "tool_calls" if self._seen[index] else "stop"
            choices.append({"index": index, "delta": {}, "finish_reason": reason})
        event = edit(self._last, {"choices": orjson.dumps(choices)})
        if self._kept is not None:
            self._kept.append(event)
        return event

    # --- an answer that is no stream after all

    def _is_plain(self, data: bytes) -> bool:
        """Whether the provider answers with JSON instead of events; such bytes are set aside."""
        assert self._plain is not None
        if not self._plain:
            start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            if start == b"<":
                raise garbage("a web page")
            if start != b"{":
                self._plain = None if start else self._plain
                return False
        self._plain.append(data)
        if sum(map(len, self._plain)) > sse.MAX_EVENT:
            raise garbage("an endless answer")
        return True

    def _plain_answer(self, body: bytes) -> bytes:
        try:
            chunk = decode_chunk(body)
        except ValueError:
            raise truncated() from None
        if not is_null(chunk.error):
            raise reported_failure(loads(bytes(chunk.error)))
        if not chunk.choices:
            raise garbage("no stream")
        return self._forward([*split_completion(loads(body)), b"[DONE]"])

    def _head(self) -> bytes:
        return orjson.dumps(
            {
                "id": f"chatcmpl-{self._job.request_id.removeprefix('req_')}",
                "object": "chat.completion.chunk",
                "created": self._job.created,
            }
        )


@dataclass(frozen=True, slots=True)
class _Frame:
    """A piece of text's event as it came and as it goes out, up to and from the text's quotes on.

    ``between`` is what stands between the texts of two such events in a row.
    """

    before: bytes
    after: bytes
    between: bytes
    before_out: bytes
    after_out: bytes
    between_out: bytes
    size: int


def _only_word(chunk: Chunk) -> str:
    """The text of a chunk that holds nothing else; "" for any other."""
    if chunk.choices is None or len(chunk.choices) != 1:
        return ""
    choice = chunk.choices[0]
    delta = choice.delta
    if delta is None or choice.finish_reason is not None or delta.role is not None:
        return ""
    others = (delta.reasoning_content, delta.reasoning, delta.refusal, delta.function_call)
    if delta.tool_calls or any(others) or chunk.obfuscation is not ABSENT:
        return ""
    word = delta.content or ""
    plain = word.isascii() and word.isprintable() and not {'"', "\\"} & set(word)
    return word if plain else ""


def _frame(word: str, came: bytes, out: bytes) -> _Frame | None:
    """The frame of a word's event; None where the word is not found as it is, or more than once."""
    text = word.encode("ascii")
    for key in (b'"content":"', b'"content": "'):
        quoted = key + text + b'"'
        if came.count(quoted) == 1 == out.count(quoted):
            at, at_out = came.index(quoted) + len(key), out.index(quoted) + len(key)
            before, after = _EVENT + came[:at], came[at + len(text) :] + _END
            before_out, after_out = _EVENT + out[:at_out], out[at_out + len(text) :] + _END
            return _Frame(
                before=before,
                after=after,
                between=after + before,
                before_out=before_out,
                after_out=after_out,
                between_out=after_out + before_out,
                size=len(before) + len(after),
            )
    return None


@dataclass(slots=True)
class _Call:
    """A tool call under way: its dense index, and what of it was told."""

    index: int
    id: str = ""
    name: str = ""


@dataclass(slots=True)
class _Fix:
    """Something in a chunk to set right: a role said twice, or a call (its place in the delta)."""

    choice: int
    call: int | None = None
    index: int = 0
    drop_id: bool = False
    drop_name: bool = False


def _repair(event: bytes, fixes: list[_Fix]) -> bytes:
    """The chunk without what was said before, and with dense call indexes."""
    if len(fixes) == 1 and fixes[0].call is None and event.count(_ROLE) == 1:
        return event.replace(_ROLE, b"")
    value = loads(event)
    choices = [choice for choice in value["choices"] if isinstance(choice, dict)]
    for fix in fixes:
        delta = choices[fix.choice]["delta"]
        if fix.call is None:
            delta.pop("role", None)
            continue
        call = [c for c in delta["tool_calls"] if isinstance(c, dict)][fix.call]
        call["index"] = fix.index
        if fix.drop_id:
            call.pop("id", None)
        if fix.drop_name:
            for kind in ("function", "custom"):
                if isinstance(call.get(kind), dict):
                    call[kind].pop("name", None)
    return dumps(value)


def _cut(event: bytes, key: bytes, raw: bytes) -> bytes:
    """The object without a top-level field whose value's bytes are known."""
    if raw == b"null" and event.endswith(_NULL_USAGE_LAST) and key == b"usage":
        return event[: -len(_NULL_USAGE_LAST)] + b"}"  # what closes last is the object itself
    found = b',"' + key + b'":' + raw
    if event.count(b'"' + key + b'"') == 1 == event.count(found):
        return event.replace(found, b"")
    return edit(event, {}, (key.decode(),))
