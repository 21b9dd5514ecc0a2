"""Taking event streams apart, whatever way the bytes arrive."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sellapi.errors import UpstreamFailed
from sellapi.wire import sse


def split(pieces, limit=sse.MAX_EVENT):
    splitter = sse.Splitter(limit)
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events + splitter.end()


@pytest.mark.parametrize(
    "raw, events",
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b": ping\n\ndata: a\n\n", [b"a"]),
        (b": OPENROUTER PROCESSING\ndata: a\n\n", [b"a"]),
        (b"event: x\ndata: a\nid: 7\nretry: 3\n\n", [b"a"]),
        (b"event: x\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\n\n\n\ndata: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"database: a\n\n", []),
        ("data: a\u2028b\u2029c\u0085d😀\n\n".encode(), ["a\u2028b\u2029c\u0085d😀".encode()]),
        (b"data: whole without its blank line", [b"whole without its blank line"]),
        (b"data: whole\n", [b"whole"]),
        (b"", []),
    ],
)
def test_every_way_of_cutting_the_bytes_gives_the_same_events(raw, events):
    assert split([raw]) == events
    for at in range(len(raw) + 1):
        assert split([raw[:at], raw[at:]]) == events, at
    assert split([raw[i : i + 1] for i in range(len(raw))]) == events


@given(
    st.lists(st.text(max_size=20).map(lambda t: t.replace("\r", "").replace("\n", ""))),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.randoms(use_true_random=False),
)
def test_texts_come_back_whole_from_random_pieces(texts, end, rng: random.Random):
    raw = "".join(f"data: {t}{end}{end}" for t in texts).encode()
    cuts = sorted(rng.randint(0, len(raw)) for _ in range(rng.randint(0, 8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert split(pieces) == [t.encode() for t in texts]


def test_an_event_that_never_ends_is_refused():
    splitter = sse.Splitter(limit=100)
    splitter.feed(b"data: " + b"x" * 90)
    with pytest.raises(sse.EventTooLong):
        splitter.feed(b"x" * 90)


def test_a_long_event_in_small_pieces_costs_linear_time():
    splitter = sse.Splitter()
    started = time.process_time()
    for _ in range(20_000):
        assert splitter.feed(b"y" * 400) == []
    splitter.feed(b"\n\n")
    assert time.process_time() - started < 1.0


def test_what_we_write_is_read_back():
    raw = sse.comment("ping\nnow") + sse.data(b"{}") + sse.error(UpstreamFailed("no").body())
    assert raw.startswith(b": ping now\n\n")
    assert split([raw + sse.DONE]) == [
        b"{}",
        b'{"error":{"message":"no","type":"upstream_error","param":null,"code":"upstream_error"}}',
        b"[DONE]",
    ]
