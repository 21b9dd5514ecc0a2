"""A whole life of a shop in processes of its own: no secret is found in anything it leaves behind."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fake_openai import (
    FakeOpenAI,
    Received,
    error_reply,
    json_reply,
    raw_reply,
    stream_reply,
)
from tests.support.process import SOURCE, clean_env, serve
from tests.support.shopfront import chunk, completion, usage_chunk

PROVIDER_KEY = "very-own-shape.of.a.provider.key-3141592653589793"
FILE_KEY = "another_provider_key_in_a_file_2718281828459045"
HEADER_SECRET = "header-secret-1618033988749894"
PROMPT = "Nobody but the customer should ever read this prompt"
ANSWER = "Nor should anybody else read this answer"
EMAIL = "ann@shop.test"


class Shop:
    """The command line in a folder; remembers all it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = clean_env(
            folder,
            SELLAPI_DATABASE=str(folder / "shop.db"),
            PROVIDER_KEY=PROVIDER_KEY,
            HEADER_SECRET=HEADER_SECRET,
        )
        self.printed: list[str] = []

    def __call__(self, *words: str, refused: bool = False, secret: bool = False) -> Any:
        done = subprocess.run(
            [*SOURCE, *words, "--json"],
            check=False,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == (1 if refused else 0), (words, done.stderr)
        self.printed.append(done.stderr)
        if not secret:
            self.printed.append(done.stdout)
        return json.loads(done.stderr if refused else done.stdout)


def _stock(shop: Shop, url: str) -> tuple[str, str]:
    """Returns a key and the one it was rotated to."""
    (shop.folder / "provider.key").write_text(FILE_KEY)
    shop("init")
    fake = ("--kind", "openai", "--base-url", url)
    header = ("--header", "x-extra=env:HEADER_SECRET")
    shop("providers", "add", "fake", *fake, "--api-key-env", "PROVIDER_KEY", *header)
    shop("providers", "add", "filed", *fake, "--api-key-file", str(shop.folder / "provider.key"))
    prices = ("--mode", "chat", "--input", "1", "--output", "2", "--tier", "free")
    shop("models", "add", "x/chat", *prices, "--provider", "fake", "--upstream", "chat-1")
    shop("models", "add", "x/filed", *prices, "--provider", "filed", "--upstream", "chat-1")
    shop("users", "add", EMAIL)
    shop("packs", "add", "fivers", "--credits", "500000", "--price-usd", "5")
    shop("packs", "sell", EMAIL, "fivers", "--reference", "inv-1")
    first = shop("keys", "create", EMAIL, secret=True)
    rotated = shop("keys", "rotate", str(first["id"]), "--grace", "1h", secret=True)
    return first["key"], rotated["key"]


def _use(url: str, fake: FakeOpenAI, keys: tuple[str, str]) -> list[httpx.Response]:
    stream = [chunk(ANSWER), chunk(finish="stop"), usage_chunk()]

    def leak(asked: Received) -> str:
        """A provider that repeats all it was sent to authenticate with."""
        extra = asked.headers.get("x-extra", "")
        return f"{asked.headers['authorization']} and {extra} are wrong for {fake.url}"

    replies = [
        lambda _: json_reply(completion(ANSWER)),
        *(lambda asked, s=status: error_reply(s, leak(asked)) for status in (400, 401, 500)),
        lambda a: raw_reply(json.dumps({"error": {"message": leak(a)}}).encode()),
        lambda a: raw_reply(b'data: {"error": {"message": "%b"}}\n\n' % leak(a).encode()),
        lambda a: raw_reply(leak(a).encode(), content_type="text/html"),
        lambda _: stream_reply(stream),
    ]
    got = []
    for reply in replies:
        for model in ("x/chat", "x/filed"):
            for key, streamed in zip(keys, (False, True), strict=True):
                fake.script("/chat/completions", reply)
                body = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
                body |= {"stream": streamed, "max_tokens": 20}
                headers = {"authorization": f"Bearer {key}"}
                got.append(httpx.post(f"{url}/chat/completions", json=body, headers=headers))
    for path in ("/usage", "/credits", "/models"):
        got.append(httpx.get(url + path, headers={"authorization": f"Bearer {keys[0]}"}))
    wrong = {"authorization": f"Bearer {keys[0][:-1]}#"}
    got.append(httpx.get(f"{url}/credits", headers=wrong))
    got.append(httpx.post(f"{url}/chat/completions", content=b'{"x', headers=headers))
    return got


def _administer(shop: Shop) -> None:
    rows = shop("requests", "list")
    charged = next(r for r in rows if r["state"] == "settled")
    for words in (
        ("requests", "show", charged["request_id"]),
        ("credits", "refund", charged["request_id"], "--reason", "a test"),
        ("credits", "statement", EMAIL),
        ("status",),
        ("audit",),
        ("providers", "list"),
        ("ledger", "verify"),
        ("db", "backup", str(shop.folder / "backup.db")),
    ):
        shop(*words)
    subprocess.run(  # exit code 1: there is something to mend
        [*SOURCE, "doctor"], check=False, cwd=shop.folder, env=shop.env, capture_output=True
    )


@pytest.mark.timeout(120)
async def test_no_secret_is_left_in_database_wal_backup_log_audit_or_error(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    async with FakeOpenAI(strict=False) as fake:
        keys = await asyncio.to_thread(_stock, shop, fake.url)
        with serve(cwd=tmp_path, env=shop.env) as served:
            answers = await asyncio.to_thread(_use, served.url, fake, keys)
            await asyncio.to_thread(_administer, shop)
            asked = fake.requests
            served.process.kill()  # so that the write-ahead log stays
            served.process.wait()
        assert {r.headers["authorization"] for r in asked} == {
            f"Bearer {PROVIDER_KEY}",
            f"Bearer {FILE_KEY}",
        }
        assert HEADER_SECRET in {r.headers.get("x-extra") for r in asked}
    assert {a.status_code for a in answers} >= {200, 400, 401, 502}
    left = {p.name: p.read_bytes() for p in tmp_path.glob("*") if p.is_file()}
    assert {"shop.db", "shop.db-wal", "serve.log", "backup.db"} <= left.keys()
    assert left.pop("provider.key") == FILE_KEY.encode()
    left["what the command line said"] = "\n".join(shop.printed).encode()
    left["answers"] = "\n".join(f"{a.headers} {a.text}" for a in answers).encode()
    for name, data in left.items():
        for secret in (*keys, PROVIDER_KEY, FILE_KEY, HEADER_SECRET):
            assert secret.encode() not in data, f"{secret[:12]}… in {name}"
            assert secret.encode()[11:30] not in data, f"a part of {secret[:12]}… in {name}"
        assert PROMPT.encode() not in data, f"the prompt in {name}"
        assert name == "answers" or ANSWER.encode() not in data, f"the answer in {name}"
