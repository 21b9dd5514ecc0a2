"""Large bodies are looked through and counted in a short form, with the same outcome."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sellapi.domain.catalog import Model
from sellapi.domain.pricing import Prices
from sellapi.errors import InvalidRequest
from sellapi.gateway.demand import READERS
from sellapi.wire import fields
from sellapi.wire.fields import shorten

MODEL = Model(
    id=1,
    slug="test/chat",
    name="x",
    mode="chat",
    tier="free",
    enabled=True,
    price_id=1,
    prices=Prices(input=1_000_000, output=2_000_000),
    routes=(),
    context_length=10**9,
)

WORDS = st.text(st.sampled_from('ab:_" \\\n{}[]') | st.characters(codec="utf-8"), max_size=12)
TEXTS = st.builds(lambda word, times: word * times, WORDS, st.sampled_from((1, 1, 10, 200)))
VALUES = st.recursive(
    TEXTS | st.integers() | st.none() | st.sampled_from(("\\" * 64, "\\" * 65, '\\"' * 40)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large, and strings of 20 bytes as long."""
    monkeypatch.setattr(fields, "_SHORTENED_BYTES", 0)
    monkeypatch.setattr(fields, "_STRING_BYTES", 20)
    monkeypatch.setattr(fields, "_BEGIN_BYTES", 16)


def same(found: Any, given: Any, lengths: dict[str, int]) -> bool:
    if isinstance(given, dict):
        pairs = zip(found.items(), given.items(), strict=True)
        return all(same(a, b, lengths) and same(x, y, lengths) for (a, x), (b, y) in pairs)
    if isinstance(given, list):
        return all(same(a, b, lengths) for a, b in zip(found, given, strict=True))
    if isinstance(given, str) and found in lengths:
        return lengths[found] == len(given) and found[:16] == given[:16]
    return found == given


@given(VALUES, st.booleans(), st.sampled_from((None, (",", ":"), (" ,\n", " \t: "))))
def test_what_is_short_stays_and_what_is_long_keeps_its_length(value, ascii_only, separators):
    raw = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
    text, lengths = shorten(msgspec.Raw(raw.encode()))
    given = json.loads(raw.encode())
    assert same(json.loads(text), given, lengths)


def test_a_long_string_is_shortened_and_no_other() -> None:
    raw = b'{"%b":"%b","b":"\\"%b","c":"\\\\","%b":[]}' % (
        b"k" * 21,
        b"A" * 500,
        b"B" * 30,
        b"d" * 20,
    )
    text, lengths = shorten(msgspec.Raw(raw))
    assert sorted(lengths.values()) == [21, 500]
    assert b"A" * 17 not in text
    assert b"B" * 30 in text
    assert b"d" * 20 in text


PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXTS),
    st.builds(
        lambda url, detail: {"type": "image_url", "image_url": {"url": url} | detail},
        TEXTS,
        st.sampled_from(({}, {"detail": "low"}, {"detail": "x" * 30})),
    ),
    st.builds(lambda data: {"type": "input_audio", "input_audio": {"data": data}}, TEXTS),
    st.builds(
        lambda data, begin: {"type": "file", "file": {"file_data": begin + data}},
        TEXTS,
        st.sampled_from(("", "data:a/pdf;base64," + "A" * 600, "https://" + "a" * 600)),
    ),
)


@given(st.lists(st.lists(PARTS, max_size=4) | TEXTS, min_size=1, max_size=4), st.booleans())
def test_a_prompt_counts_the_same_however_long_its_strings_are(contents, ascii_only):
    messages = [{"role": "user", "content": content} for content in contents]
    raw = {"messages": msgspec.Raw(json.dumps(messages, ensure_ascii=ascii_only).encode())}
    asked = READERS["chat"](raw, MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields, "_SHORTENED_BYTES", 1 << 60)
        assert READERS["chat"](raw, MODEL) == asked


@pytest.mark.parametrize("before", [b"", b'"a",' * 300_000, b'"%b",' % (b"A" * 500)])
def test_parts_without_end_are_refused_behind_whatever_strings(before: bytes) -> None:
    content = b'[{"type":"image_url"},%b%b{}]' % (before, b"[]," * 510_000)
    raw = b'[{"role":"user","content":%b}]' % content
    with pytest.raises(InvalidRequest, match="far too many parts"):
        READERS["chat"]({"messages": msgspec.Raw(raw)}, MODEL)
