"""What Anthropic answered, gathered block by block, for whole answers and streams alike."""

from __future__ import annotations

from typing import Any

from sellapi.domain.usage import MAX_COUNT, Usage
from sellapi.upstream.adapter import Answer, Job, TextCount
from sellapi.upstream.anthropic_thinking import Thoughts, ThoughtsMemory, carry
from sellapi.upstream.openai_shape import Choice, JsonObject, completion, exact_dumps

__all__ = ["Gathered", "finish_reason", "merge_usage", "read_usage"]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def finish_reason(stop_reason: Any, *, called: bool) -> str:
    """OpenAI's word; unknown ones are ``stop``, and so is tool_use without a call (5.7)."""
    reason = _FINISH.get(stop_reason, "stop") if isinstance(stop_reason, str) else "stop"
    return "stop" if reason == "tool_calls" and not called else reason


# ---------------------------------------------------------------------------------------- usage


def merge_usage(start: JsonObject, delta: JsonObject) -> JsonObject:
    """message_delta's figures are cumulative: they replace those of message_start where given."""
    return {**start, **{key: value for key, value in delta.items() if value is not None}}


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def read_usage(raw: Any) -> Usage | None:
    """Disjoint buckets from Anthropic's usage object; None when it holds no (sane) counts.

    ``input_tokens`` is only the uncached rest. Top-level counts leave out ``iterations`` of type
    compaction, which are billed all the same (wire notes 5.2).
    """
    if not isinstance(raw, dict):
        return None
    if type(raw.get("input_tokens")) is not int or type(raw.get("output_tokens")) is not int:
        return None
    total = _buckets(raw)
    iterations = raw.get("iterations")
    for item in iterations if isinstance(iterations, list) else ():
        if isinstance(item, dict) and item.get("type") == "compaction":
            total = [a + b for a, b in zip(total, _buckets(item), strict=True)]
    if max(total) > MAX_COUNT:
        return None
    details = raw.get("output_tokens_details")
    thinking = _count(details.get("thinking_tokens")) if isinstance(details, dict) else 0
    return Usage(
        input=total[0],
        cache_read=total[1],
        cache_write=total[2],
        cache_write_1h=total[3],
        output=total[4],
        reasoning=min(thinking, total[4]),
        raw=exact_dumps(raw),
    )


def _buckets(raw: JsonObject) -> list[int]:
    """[input, cache read, 5-minute write, 1-hour write, output] of one usage object."""
    split = raw.get("cache_creation")
    split = split if isinstance(split, dict) else {}
    short = _count(split.get("ephemeral_5m_input_tokens"))
    long = _count(split.get("ephemeral_1h_input_tokens"))
    written = raw.get("cache_creation_input_tokens")
    written = _count(written) if type(written) is int else short + long
    long = min(long, written)
    return [
        _count(raw.get("input_tokens")),
        _count(raw.get("cache_read_input_tokens")),
        written - long,
        long,
        _count(raw.get("output_tokens")),
    ]


# -------------------------------------------------------------------------------------- content


class Gathered:
    """One answer's content. With ``keep`` false the text itself is only counted (a stream)."""

    __slots__ = (
        "_job",
        "_keep",
        "_layout",
        "_memory",
        "_thinking",
        "calls",
        "choice",
        "count",
        "skipped",
    )

    def __init__(self, job: Job, memory: ThoughtsMemory, *, keep: bool) -> None:
        self._job = job
        self._memory = memory
        self._keep = keep
        self._layout: list[int] = []
        self._thinking: list[JsonObject] = []
        self.calls: list[str] = []
        """Ids of the tool calls, in order."""
        self.choice = Choice()
        self.count = TextCount()
        self.skipped = 0

    def start_text(self) -> None:
        self._layout.append(0)

    def text(self, text: str) -> None:
        """A piece of the text block that was started last."""
        self.count.add(text)
        if self._layout and self._layout[-1] >= 0:
            self._layout[-1] += len(text)
        else:
            self._layout.append(len(text))
        if self._keep:
            self.choice.text.append(text)

    def reasoning(self, text: str) -> None:
        """A piece of visible thinking."""
        self.count.add(text)
        if self._keep:
            self.choice.reasoning.append(text)

    def thought(self, block: JsonObject) -> None:
        """A whole thinking or redacted_thinking block."""
        self._layout.append(-1)
        self._thinking.append(block)

    def call(self, identifier: str, name: str, arguments: str) -> None:
        """A whole tool call; its text was counted as it came."""
        self.calls.append(identifier)
        if self._keep:
            self.choice.tool_call(identifier, name, arguments)

    def mark_call(self) -> None:
        self._layout.append(-2)

    def finish(self, stop_reason: Any, stop_details: Any) -> JsonObject | None:
        """Close the answer; returns the ``extra_content`` that is to come back, if there is any."""
        self.choice.finish_reason = finish_reason(stop_reason, called=bool(self.calls))
        if stop_reason == "refusal" and isinstance(stop_details, dict):
            explanation = stop_details.get("explanation")
            if isinstance(explanation, str) and explanation:
                self.choice.refusal = explanation
        if not self._thinking:
            return None
        thoughts = Thoughts(self._job.upstream_id, tuple(self._thinking), self._odd_layout())
        self._memory.remember(self._job.account_tag, self.calls, thoughts)
        self.choice.extra_content = carry(thoughts)
        return self.choice.extra_content

    def _odd_layout(self) -> tuple[int, ...]:
        """The layout where it is not thinking, then one text, then calls; () where it is."""
        marks = [mark for mark in self._layout if mark]
        plain = sorted(marks, key=lambda mark: {-1: 0, -2: 2}.get(mark, 1))
        texts = sum(mark > 0 for mark in marks)
        return () if marks == plain and texts <= 1 else tuple(marks)

    def answer(self, usage: Usage | None) -> Answer:
        return Answer(
            body=completion(self._job, [self.choice], usage),
            usage=usage,
            finish_reasons=(self.choice.finish_reason,),
            text=self.count,
            skipped=self.skipped,
        )
