"""A chat's messages as Anthropic wants them (wire notes 5.2, 5.5, 5.6).

System text goes to the top. Turns alternate and start with the user. Every call is answered exactly
once in the very next user message, results before anything else; a lost result is synthesised, a
result without a call becomes text. No text is empty. Ids fit ``[A-Za-z0-9_-]`` and are unique.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from sellapi.upstream.adapter import Job, Media
from sellapi.upstream.anthropic_thinking import Thoughts, ThoughtsMemory, carried
from sellapi.upstream.openai_shape import (
    AudioPart,
    FilePart,
    ImagePart,
    JsonObject,
    Message,
    Part,
    TextPart,
    ToolCall,
    refuse,
)

__all__ = ["Conversation", "build", "call_name", "media_urls", "thoughts_by_message"]

_PLACEHOLDER = "."
"""Stands where a turn must be and the client said nothing."""
_CONTINUE = "Continue right where your last message ends, without repeating any of it."
"""For models that refuse a conversation ending with the assistant."""
_LOST = "The result of this call was lost."
_NO_OUTPUT = "(no output)"
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_TEXTS = frozenset(
    {"application/json", "application/xml", "application/yaml", "application/x-yaml"}
)


@dataclass(slots=True)
class Conversation:
    """``system`` blocks and alternating ``messages``, first one the user's."""

    system: list[JsonObject]
    messages: list[JsonObject]
    called: list[str]
    """Names of the tools the history calls, in order, each once."""


@dataclass(slots=True)
class _Slot:
    """One call of the history, its id upstream and the content of its result, once found."""

    call: ToolCall
    id: str
    results: list[Message] = field(default_factory=list)


# ------------------------------------------------------------------------------------- thinking


def thoughts_by_message(
    job: Job, messages: list[Message], memory: ThoughtsMemory
) -> dict[int, Thoughts]:
    """The thinking that belongs to each assistant message (by position), as far as known.

    What another model thought is left out: its signature means nothing to this one.
    """
    found: dict[int, Thoughts] = {}
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        calls = [call.id for call in message.tool_calls]
        thoughts = carried(message) or memory.recall(job.account_tag, calls)
        if thoughts is not None and thoughts.model == job.upstream_id:
            found[index] = thoughts
    return found


# ------------------------------------------------------------------------------------- building


def build(
    job: Job, messages: list[Message], thoughts: dict[int, Thoughts], *, prefill: bool
) -> Conversation:
    """The conversation; raises `InvalidRequest` for content Anthropic cannot take.

    ``thoughts`` are those to be sent (none when thinking is off for this request).
    """
    slots, orphans = _match_results(messages)
    turns = _Turns()
    system: list[JsonObject] = []
    for index, message in enumerate(messages):
        if message.role == "system":
            system += _system_blocks(message)
        elif message.role == "user":
            turns.user(_marked(_blocks(job, message.parts), message))
        elif message.role == "assistant":
            turns.assistant(
                _assistant_blocks(message, slots[index], thoughts.get(index)),
                [_result_block(job, slot) for slot in slots[index]],
            )
        elif index in orphans:
            turns.user([_orphan(message), *_blocks(job, message.parts)])
    called = dict.fromkeys(call_name(s.call.name) for group in slots.values() for s in group)
    return Conversation(system, turns.close(prefill=prefill), list(called))


class _Turns:
    """Gathers alternating turns; neighbours of one role become one."""

    def __init__(self) -> None:
        self._turns: list[tuple[str, list[JsonObject]]] = []
        self._blank = False
        """A user turn without content was said and nothing of the user's stands for it yet."""

    def user(self, blocks: list[JsonObject]) -> None:
        if blocks:
            self._append("user", blocks)
        else:
            self._blank = True

    def assistant(self, blocks: list[JsonObject], results: list[JsonObject]) -> None:
        if not blocks:
            return
        self._stand_in()
        self._append("assistant", blocks)
        if results:
            self._append("user", results)

    def _stand_in(self) -> None:
        """A placeholder where the user must have spoken before the next turn."""
        if not self._turns or (self._blank and self._turns[-1][0] == "assistant"):
            self._append("user", [{"type": "text", "text": _PLACEHOLDER}])

    def _append(self, role: str, blocks: list[JsonObject]) -> None:
        self._blank = self._blank and role != "user"
        if self._turns and self._turns[-1][0] == role:
            self._turns[-1][1].extend(blocks)
        else:
            self._turns.append((role, list(blocks)))

    def close(self, *, prefill: bool) -> list[JsonObject]:
        self._stand_in()
        if self._turns[-1][0] == "assistant":
            self._end_with_assistant(prefill=prefill)
        return [{"role": role, "content": _plain(blocks)} for role, blocks in self._turns]

    def _end_with_assistant(self, *, prefill: bool) -> None:
        blocks = self._turns[-1][1]
        if not prefill:
            self._append("user", [{"type": "text", "text": _CONTINUE}])
        elif blocks[-1]["type"] == "text":
            # Trailing whitespace at the end of a prefill is a 400; it is not empty (see _text).
            blocks[-1] = {**blocks[-1], "text": blocks[-1]["text"].rstrip()}
        else:
            self._append("user", [{"type": "text", "text": _CONTINUE}])


def _plain(blocks: list[JsonObject]) -> str | list[JsonObject]:
    """A lone text block is told as a string."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return str(blocks[0]["text"])
    return blocks


def _marked(blocks: list[JsonObject], message: Message) -> list[JsonObject]:
    """The message's own cache_control sits on its last block."""
    if message.cache_control and blocks:
        blocks[-1].setdefault("cache_control", message.cache_control)
    return blocks


def _system_blocks(message: Message) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    for index, part in enumerate(message.parts):
        if not isinstance(part, TextPart):
            raise refuse("System messages take text only.", f"{message.param}.content[{index}]")
        blocks += _text(part)
    return _marked(blocks, message)


# ------------------------------------------------------------------------- the assistant's turns


def _assistant_blocks(
    message: Message, slots: list[_Slot], thoughts: Thoughts | None
) -> list[JsonObject]:
    texts: list[JsonObject] = []
    for index, part in enumerate(message.parts):
        if not isinstance(part, TextPart):
            raise refuse("Assistant messages take text only.", f"{message.param}.content[{index}]")
        texts += _text(part)
    calls = [_call_block(slot) for slot in slots]
    if thoughts is None or not (texts or calls):
        return _marked(texts + calls, message)
    ordered = _laid_out(message, thoughts, calls)
    return _marked(ordered or [*thoughts.blocks, *texts, *calls], message)


def _laid_out(message: Message, thoughts: Thoughts, calls: list[JsonObject]) -> list[JsonObject]:
    """The blocks in the order the model wrote them; [] when the message was changed since."""
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
    marks = thoughts.layout
    fits = (
        marks.count(-1) == len(thoughts.blocks)
        and marks.count(-2) == len(calls)
        and sum(mark for mark in marks if mark >= 0) == len(text)
    )
    if not marks or not fits:
        return []
    blocks: list[JsonObject] = []
    thinking, rest, position = iter(thoughts.blocks), iter(calls), 0
    for mark in marks:
        if mark == -1:
            blocks.append(next(thinking))
        elif mark == -2:
            blocks.append(next(rest))
        else:
            blocks += _text(TextPart(text[position : position + mark]))
            position += mark
    return blocks


def _call_block(slot: _Slot) -> JsonObject:
    block: JsonObject = {
        "type": "tool_use",
        "id": slot.id,
        "name": call_name(slot.call.name),
        "input": slot.call.input,
    }
    cache = slot.call.raw.get("cache_control")
    return {**block, "cache_control": cache} if isinstance(cache, dict) else block


_BAD_NAME = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)


def call_name(name: str) -> str:
    """A tool's name in the alphabet Anthropic takes."""
    return _BAD_NAME.sub("_", name)[:128]


class _Ids:
    """Ids in Anthropic's alphabet, each once."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._last: dict[str, int] = {}
        """By id: the last number that was put behind it."""

    def fresh(self, identifier: str) -> str:
        made = _BAD_NAME.sub("_", identifier)
        if len(made) > 64:
            digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
            made = f"{made[:31]}_{digest[:32]}"
        base, number = made, self._last.get(made, 1)
        while made in self._used:
            number += 1
            made = f"{base}_{number}"
        self._last[base] = number
        self._used.add(made)
        return made


def _match_results(messages: list[Message]) -> tuple[dict[int, list[_Slot]], set[int]]:
    """The calls of each assistant message with their results, and the results without a call.

    A result belongs to the latest message that made a call of its id and, within it, to the first
    unanswered one; a further result of an answered call is added to it.
    """
    slots: dict[int, list[_Slot]] = {}
    orphans: set[int] = set()
    waiting: dict[str, deque[_Slot]] = {}
    answered: dict[str, _Slot] = {}
    ids = _Ids()
    for index, message in enumerate(messages):
        if message.role == "assistant":
            made = [_Slot(call, ids.fresh(call.id)) for call in message.tool_calls]
            slots[index] = made
            for slot in made:
                waiting[slot.call.id] = deque()
            for slot in made:
                waiting[slot.call.id].append(slot)
        elif message.role == "tool":
            key = message.tool_call_id
            if waiting.get(key):
                answered[key] = waiting[key].popleft()
            elif key not in answered:
                orphans.add(index)
                continue
            answered[key].results.append(message)
    return slots, orphans


# -------------------------------------------------------------------------------------- results


def _result_block(job: Job, slot: _Slot) -> JsonObject:
    block: JsonObject = {"type": "tool_result", "tool_use_id": slot.id}
    if not slot.results:
        return {**block, "content": _LOST, "is_error": True}
    content: list[JsonObject] = []
    for message in slot.results:
        for inner in _marked(_blocks(job, message.parts), message):
            cache = inner.pop("cache_control", None)
            if cache is not None:
                block["cache_control"] = cache
            content.append(inner)
    if not content:
        return {**block, "content": _NO_OUTPUT}
    return {**block, "content": _plain(content)}


def _orphan(message: Message) -> JsonObject:
    return {"type": "text", "text": f"Result of the tool call {message.tool_call_id}:"}


# ---------------------------------------------------------------------------------------- parts


def _blocks(job: Job, parts: tuple[Part, ...]) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    for part in parts:
        if isinstance(part, TextPart):
            blocks += _text(part)
        elif isinstance(part, AudioPart):
            raise refuse("This model cannot hear audio: send text instead.", part.param)
        else:
            made = _image(job, part) if isinstance(part, ImagePart) else _document(job, part)
            blocks.append(
                {**made, "cache_control": part.cache_control} if part.cache_control else made
            )
    return blocks


def _text(part: TextPart) -> list[JsonObject]:
    """A text block, or nothing: empty and blank texts are a 400 upstream."""
    if not part.text.strip():
        return []
    block: JsonObject = {"type": "text", "text": part.text}
    if part.cache_control:
        block["cache_control"] = part.cache_control
    return [block]


def media_urls(messages: list[Message]) -> dict[str, str]:
    """The URLs of all images and files that are named by URL, and where each stands first."""
    found: dict[str, str] = {}
    for message in messages:
        for part in message.parts:
            if isinstance(part, (ImagePart, FilePart)) and part.url:
                name = "url" if isinstance(part, ImagePart) else "file_data"
                found.setdefault(part.url, f"{part.param}.{name}")
    return found


def _fetched(job: Job, url: str, param: str) -> Media | None:
    """What we fetched for a URL; None when the URL itself may go upstream."""
    media: Mapping[str, Media] = job.media
    if url in media:
        return media[url]
    if not url[:8].lower().startswith(("http://", "https://")):
        raise refuse("The URL must be an http(s) or a data: URL.", param)
    return None


def _image(job: Job, part: ImagePart) -> JsonObject:
    mime, data = part.mime, part.data
    if part.url is not None:
        media = _fetched(job, part.url, f"{part.param}.url")
        if media is None:
            return {"type": "image", "source": {"type": "url", "url": part.url}}
        mime, data = _encoded(media)
    if mime not in _IMAGES:
        raise refuse(
            f"Images must be JPEG, PNG, GIF or WebP, not {mime or 'of unknown type'}.", part.param
        )
    return {"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}}


def _encoded(media: Media) -> tuple[str, str]:
    mime = "image/jpeg" if media.mime == "image/jpg" else media.mime
    return mime, base64.b64encode(media.data).decode("ascii")


def _document(job: Job, part: FilePart) -> JsonObject:
    mime, data = part.mime, part.data
    title = {"title": part.filename} if part.filename else {}
    if part.url is not None:
        media = _fetched(job, part.url, f"{part.param}.file_data")
        if media is None:
            if mime not in ("", "application/pdf"):
                raise refuse("Only PDF files can be named by URL.", f"{part.param}.file_data")
            return {"type": "document", "source": {"type": "url", "url": part.url}, **title}
        mime, data = _encoded(media)
    mime = mime or _guess(data)
    if mime in _IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}}
    if mime == "application/pdf":
        source: JsonObject = {"type": "base64", "media_type": mime, "data": data}
        return {"type": "document", "source": source, **title}
    if mime.startswith("text/") or mime in _TEXTS:
        return {"type": "document", "source": _plain_text(data, part.param), **title}
    raise refuse(
        f"Files must be PDF, plain text or images, not {mime or 'of unknown type'}.", part.param
    )


def _guess(data: str) -> str:
    """Bare base64 that nothing tells the type of: text if it reads as such, else a PDF."""
    try:
        base64.b64decode(data).decode("utf-8-sig")
    except ValueError:
        return "application/pdf"
    return "text/plain"


def _plain_text(data: str, param: str) -> JsonObject:
    try:
        text = base64.b64decode(data).decode("utf-8-sig")
    except ValueError as error:
        raise refuse("A text file must be UTF-8.", param) from error
    if not text.strip():
        raise refuse("The file is empty.", param)
    return {"type": "text", "media_type": "text/plain", "data": text}
