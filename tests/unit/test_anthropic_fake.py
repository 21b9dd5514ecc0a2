"""The fake Anthropic refuses what the real one refuses: each planted fault is caught."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fake_anthropic_rules import check

GOOD: dict[str, Any] = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
TEXT = {"type": "text", "text": "x"}
USER = GOOD["messages"][0]
MARK = {"cache_control": {"type": "ephemeral"}}


def turns(*contents: Any) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]


def test_a_good_request_passes():
    assert check(GOOD) is None
    loop = {"tools": [TOOL], "messages": turns("Hi", [USE], [RESULT, TEXT])}
    assert check({**GOOD, **loop}) is None


@pytest.mark.parametrize(
    "fault",
    [
        {"user": "joe"},
        {"messages": [{"role": "user", "content": [{**TEXT, "extra": 1}]}]},
        {"messages": [{"role": "assistant", "content": "x"}, USER]},
        {"messages": turns(" ")},
        {"messages": turns("Hi", "there")},
        {"messages": turns("Hi", [USE], [RESULT])},
        {"tools": [TOOL], "messages": turns("Hi", [USE], [TEXT])},
        {"tools": [TOOL], "messages": turns("Hi", [USE], [TEXT, RESULT])},
        {"tools": [TOOL], "messages": turns("Hi", [USE, USE], [RESULT, RESULT])},
        {
            "tools": [TOOL],
            "messages": turns("Hi", [{**USE, "id": "a:b"}], [{**RESULT, "tool_use_id": "a:b"}]),
        },
        {"tools": [TOOL], "messages": turns([RESULT])},
        {"tools": [TOOL, TOOL]},
        {"tools": [{**TOOL, "input_schema": {"type": "string"}}]},
        {"tool_choice": {"type": "auto"}},
        {"max_tokens": 0},
        {"max_tokens": 128_001},
        {"temperature": 0.5, "top_p": 0.5},
        {"temperature": 1.5},
        {"model": "claude-opus-4-7", "temperature": 1},
        {"thinking": {"type": "adaptive"}, "temperature": 1},
        {"thinking": {"type": "enabled", "budget_tokens": 100}},
        {"model": "claude-opus-5-5", "thinking": {"type": "disabled"}},
        {"model": "claude-opus-5-5", "tools": [TOOL], "tool_choice": {"type": "any"}},
        {"thinking": {"type": "adaptive"}, "tools": [TOOL], "tool_choice": {"type": "any"}},
        {"output_config": {"effort": "xhigh"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"stop_sequences": [" "]},
        {"metadata": {"user_id": "joe@example.com"}},
        {"messages": turns([{**TEXT, **MARK}] * 5)},
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 3000,
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "tools": [TOOL],
            "messages": turns("Hi", [USE], [RESULT]),
        },
        {
            "messages": turns(
                "Hi", [{"type": "thinking", "thinking": "x", "signature": "forged"}, TEXT], "y"
            )
        },
    ],
)
def test_a_planted_fault_is_caught(fault: dict[str, Any]):
    assert check({**GOOD, **fault}) is not None
