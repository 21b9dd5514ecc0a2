"""After a run of everything no secret is found where none belongs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.fake_openai import Received, Response, error_reply, json_reply, raw_reply
from tests.support.shopfront import CHAT, HELLO, completion, open_front

PROVIDER_KEY = "sk-proj-providersecret0123456789abcdefghij"
HEADER_SECRET = "header-secret-9876543210"
PROMPT = "the customer's own words, nobody else's"


async def test_no_secret_reaches_an_answer_the_database_or_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_KEY", PROVIDER_KEY)
    monkeypatch.setenv("FAKE_HEADER", HEADER_SECRET)
    caplog.set_level(logging.DEBUG)
    answers = []
    async with open_front(tmp_path) as front:
        front.shop.execute(
            "UPDATE providers SET api_key_env = 'FAKE_KEY', headers = ?",
            '{"x-extra": "env:FAKE_HEADER"}',
        )
        host = front.fake.url.removeprefix("http://").removesuffix("/v1")
        leak = f"Bad key {PROVIDER_KEY} ({HEADER_SECRET}) at {front.fake.url} for {host}: {PROMPT}"

        def leaky(status: int) -> Response:
            return error_reply(status, leak)

        asked = [{"role": "user", "content": PROMPT}]
        replies: list[Response] = [
            json_reply(completion()),
            *(leaky(status) for status in (400, 401, 403, 404, 429, 500)),
            raw_reply(f'data: {{"error": {{"message": "Bad key {PROVIDER_KEY}"}}}}\n\n'.encode()),
            Response(drop=True),
            raw_reply(b"<html>", content_type="text/html"),
        ]
        for reply in replies:
            front.fake.script("/chat/completions", reply)
            for stream in (False, True):
                answer = await front.chat(messages=asked, stream=stream, max_tokens=5)
                answers.append(answer.text + str(answer.headers))
            front.run.services.limiter.__init__()  # type: ignore[misc] # a fresh minute
        got: Received = front.fake.requests[-1]
        assert got.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
        assert got.headers["x-extra"] == HEADER_SECRET
        front.shop.execute("UPDATE providers SET base_url = 'http://127.0.0.1:1/v1'")
        answers.append((await front.chat(messages=HELLO, model=CHAT)).text)
        answers.append((await front.chat(key="sk-sellapi-" + "q" * 43)).text)
        answers += [(await front.get(path)).text for path in ("/usage", "/models", "/credits")]
        answers.append((await front.http.get(front.run.origin + "/ready")).text)
        await front.settled(20)
        key = front.key
    stored = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    said = "\n".join(answers)
    for secret in (key, PROVIDER_KEY, HEADER_SECRET, PROVIDER_KEY[8:]):
        assert secret.encode() not in stored, "in the database"
        assert secret not in said, "in an answer"
        assert secret not in caplog.text, "in the log"
    assert host not in said
    assert PROMPT.encode() not in stored
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("sellapi")]
    assert not any(PROMPT in line or host in line for line in ours)
