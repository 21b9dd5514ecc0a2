"""Thinking blocks on their way through clients that do not know them.

Anthropic signs its thinking and wants it back unmodified with a tool's result. It travels as an
opaque field of the OpenAI message, ``extra_content.anthropic``, which the official SDKs send back
(wire notes 1.4). For clients that drop it, a bounded memory per adapter restores it by the id of
the tool calls it led to; one account never sees another's.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from sellapi.upstream.openai_parts import JsonObject
from sellapi.upstream.openai_shape import Message

__all__ = ["Thoughts", "ThoughtsMemory", "carried", "carry"]

_KEY = "anthropic"


@dataclass(frozen=True, slots=True)
class Thoughts:
    """The thinking of one assistant message.

    ``layout`` tells the order of the message's blocks where it is not the plain one (thinking, then
    text, then calls): ``-1`` for the next thinking block, ``-2`` for the next call, else the number
    of characters of a text block.
    """

    model: str
    blocks: tuple[JsonObject, ...]
    layout: tuple[int, ...] = ()


def carry(thoughts: Thoughts) -> JsonObject:
    """``extra_content`` for a message."""
    inner: JsonObject = {"model": thoughts.model, "thinking": list(thoughts.blocks)}
    if thoughts.layout:
        inner["layout"] = list(thoughts.layout)
    return {_KEY: inner}


def carried(message: Message) -> Thoughts | None:
    """What came back with a message, if it is well-formed; None otherwise."""
    extra = message.raw.get("extra_content")
    inner = extra.get(_KEY) if isinstance(extra, dict) else None
    if not isinstance(inner, dict):
        return None
    blocks = inner.get("thinking")
    model = inner.get("model")
    if not isinstance(blocks, list) or not blocks or not isinstance(model, str):
        return None
    cleaned = [_block(block) for block in blocks]
    if any(block is None for block in cleaned):
        return None
    layout = inner.get("layout")
    plain = isinstance(layout, list) and all(type(n) is int and n >= -2 for n in layout)
    return Thoughts(
        model,
        tuple(block for block in cleaned if block is not None),
        tuple(layout) if plain and isinstance(layout, list) else (),
    )


def _block(block: Any) -> JsonObject | None:
    if not isinstance(block, dict):
        return None
    thinking, signature, data = (block.get(k) for k in ("thinking", "signature", "data"))
    if block.get("type") == "redacted_thinking" and isinstance(data, str) and data:
        return {"type": "redacted_thinking", "data": data}
    signed = isinstance(thinking, str) and isinstance(signature, str) and signature
    if block.get("type") == "thinking" and signed:
        return {"type": "thinking", "thinking": thinking, "signature": signature}
    return None


class ThoughtsMemory:
    """Thoughts by (account, tool call id): the least recently used go first.

    Bounded by entries and by bytes; one message's thinking above ``largest`` bytes is not kept.
    """

    def __init__(
        self, entries: int = 8_192, total_bytes: int = 32 << 20, largest: int = 1 << 20
    ) -> None:
        self._entries = entries
        self._total_bytes = total_bytes
        self._largest = largest
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, str], tuple[Thoughts, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def remember(self, account: str, call_ids: list[str], thoughts: Thoughts) -> None:
        """Keep the thoughts that led to these calls. Without an account nothing is kept."""
        if not account or not call_ids:
            return
        size = 256 + len(orjson.dumps(thoughts.blocks))
        if size > self._largest:
            return
        for call_id in call_ids:
            self._drop((account, call_id))
            self._kept[account, call_id] = (thoughts, size)
            self._bytes += size
        while self._kept and (len(self._kept) > self._entries or self._bytes > self._total_bytes):
            self._drop(next(iter(self._kept)))

    def recall(self, account: str, call_ids: list[str]) -> Thoughts | None:
        """The thoughts behind these calls, if all that are known agree."""
        found: Thoughts | None = None
        for call_id in call_ids:
            kept = self._kept.get((account, call_id)) if account else None
            if kept is None:
                continue
            if found is not None and kept[0] is not found:
                return None
            found = kept[0]
            self._kept.move_to_end((account, call_id))
        return found

    def _drop(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept[1]
