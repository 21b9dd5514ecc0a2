"""Bad and odd bodies: the right 4xx, quickly; good ones go upstream value by value."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_openai import json_reply
from tests.support.shopfront import CHAT, EMBED, HELLO, IMAGE, Front, completion, open_front

PATHS = {
    "/chat/completions": {"model": CHAT, "messages": HELLO},
    "/embeddings": {"model": EMBED, "input": "text"},
    "/images/generations": {"model": IMAGE, "prompt": "a sunset"},
}
DEEP = 100_000


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path, strict=False, tier="pro", grant=1_000_000) as front:
        yield front


async def refused(front: Front, path: str, body: Any, param: str | None = "") -> dict[str, Any]:
    """The error of a 400; with ``param`` it must name that field."""
    answer = await front.post(path, body)
    assert answer.status_code == 400, (answer.status_code, answer.text[:300], repr(body)[:200])
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    if param != "":
        assert error["param"] == param, error
    assert len(error["message"]) < 600
    return dict(error)


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_no_json_object_is_400_at_every_route(front: Front, path: str) -> None:
    good = json.dumps(PATHS[path])
    for body in (
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"true",
        b"{",
        b"{}{}",
        good[:-1].encode(),
        good[:-1].encode() + b",}",
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b'{"model":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b"\xef\xbb\xbf" + good.encode(),
        b"\xff\xfe" + good.encode("utf-16-le"),
        good.replace("text", "\\ud800").replace("Hello", "NaN").encode()[:-3] + b"NaN}",
        b'{"model": NaN}',
        b'{"model": "x", "a": Infinity}',
        good[:-1].encode() + b',"x":"\xff"}',
        b"{'model': 1}",
        b'{"model": "a" /* no */}',
    ):
        await refused(front, path, body)
    assert front.fake.requests == []
    assert front.requests() == []
    assert (await front.post(path, PATHS[path])).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [None, 1, 1.5, True, "", [], {}, [CHAT], {"a": 1}, "x" * 300])
async def test_a_model_that_is_no_name_is_400(front: Front, path: str, value: Any) -> None:
    await refused(front, path, PATHS[path] | {"model": value}, "model")


WRONG: list[tuple[str, str, Any, str]] = [
    ("/chat/completions", "messages", None, "messages"),
    ("/chat/completions", "messages", "Hi", "messages"),
    ("/chat/completions", "messages", {}, "messages"),
    ("/chat/completions", "messages", [], "messages"),
    ("/chat/completions", "messages", [1], "messages[0]"),
    ("/chat/completions", "messages", [None], "messages[0]"),
    ("/chat/completions", "messages", [[]], "messages[0]"),
    ("/chat/completions", "messages", [{}], "messages[0]"),
    ("/chat/completions", "messages", [{"role": 1}], "messages[0].role"),
    *(
        ("/chat/completions", "n", value, "n")
        for value in (0, -1, 1.5, "2", True, [], {}, 10**30, 129)
    ),
    *(
        ("/chat/completions", name, value, name)
        for name in ("max_tokens", "max_completion_tokens")
        for value in (0, -1, 1.5, "2", True, [], {}, 2**40)
    ),
    *(("/chat/completions", "stream", value, "stream") for value in (1, 0, "true", [], {})),
    *(("/chat/completions", "stream_options", v, "stream_options") for v in (1, "x", [], True)),
    (
        "/chat/completions",
        "stream_options",
        {"include_usage": "yes"},
        "stream_options.include_usage",
    ),
    *(("/chat/completions", "service_tier", v, "service_tier") for v in (1, [], "flex", "fast")),
    *(
        ("/chat/completions", "modalities", v, "modalities")
        for v in ("text", {}, ["text", "audio"], ["audio"], [])
    ),
    *(("/chat/completions", "tools", v, "tools") for v in (1, "x", {})),
    ("/chat/completions", "tools", [1], "tools[0]"),
    ("/chat/completions", "tools", [{}], "tools[0]"),
    ("/chat/completions", "tools", [{"type": "web_search"}], "tools[0].type"),
    *(("/embeddings", "input", v, "input") for v in (None, 1, True, {}, "", [])),
    ("/embeddings", "input", [""], "input[0]"),
    ("/embeddings", "input", ["a", ""], "input[1]"),
    ("/embeddings", "input", [[]], "input[0]"),
    ("/embeddings", "input", [[1, -1]], "input[0]"),
    ("/embeddings", "input", [-1], "input[0]"),
    ("/embeddings", "input", ["a"] * 2_049, "input"),
    *(("/embeddings", "encoding_format", v, "encoding_format") for v in (1, "int8", [])),
    *(("/embeddings", "dimensions", v, "dimensions") for v in (0, -1, "x", 1.5, True, 10**9)),
    *(("/images/generations", "prompt", v, "prompt") for v in (None, 1, [], {}, "", "x" * 40_000)),
    *(("/images/generations", "n", v, "n") for v in (0, 11, -1, "1", 1.5, True)),
    *(("/images/generations", "size", v, "size") for v in (1, [], "x" * 99)),
    *(("/images/generations", "quality", v, "quality") for v in (1, [])),
    ("/images/generations", "response_format", "url", "response_format"),
    ("/images/generations", "stream", True, "stream"),
    ("/images/generations", "partial_images", 2, "partial_images"),
    *(
        ("/images/generations", name, 4, name)
        for name in ("batch_size", "image_num", "num_images", "num_outputs", "samples")
    ),
]


async def test_wrong_types_are_400_and_name_the_field(front: Front) -> None:
    wrong = []
    for path, name, value, param in WRONG:
        answer = await front.post(path, PATHS[path] | {name: value})
        error = answer.json().get("error", {})
        if answer.status_code != 400 or error["param"] != param:
            wrong.append((name, repr(value)[:60], answer.status_code, error.get("param"), param))
    assert wrong == []
    assert front.fake.requests == []
    assert front.balance() == 1_000_000_000_000


async def test_missing_fields_are_named(front: Front) -> None:
    for path, missing in (
        ("/chat/completions", "messages"),
        ("/embeddings", "input"),
        ("/images/generations", "prompt"),
        *((path, "model") for path in PATHS),
    ):
        body = {k: v for k, v in PATHS[path].items() if k != missing}
        error = await refused(front, path, body, missing)
        assert "required" in error["message"]


async def test_null_counts_as_not_said(front: Front) -> None:
    nulls = dict.fromkeys(
        ("stream", "n", "max_tokens", "max_completion_tokens", "stream_options", "service_tier")
        + ("tools", "modalities", "audio", "web_search_options", "provider", "temperature")
    )
    assert (await front.chat(**nulls)).status_code == 200
    assert front.fake.requests[-1].body["temperature"] is None


async def test_a_paid_extra_that_is_declined_is_not_refused(front: Front) -> None:
    path = "/images/generations"
    for declined in ({"stream": False}, {"partial_images": 0}, {"stream": False, "n": 1}):
        answer = await front.post(path, PATHS[path] | declined)
        assert answer.status_code == 200, (declined, answer.text)
    client = front.openai()
    drawn = await client.images.generate(**PATHS[path], stream=False)
    assert drawn.data[0].b64_json
    assert (await front.chat(enable_search=False)).status_code == 200
    await refused(
        front, "/chat/completions", PATHS["/chat/completions"] | {"audio": False}, "audio"
    )


@pytest.mark.parametrize("depth", [500, 2_000, DEEP])
async def test_deep_nesting_anywhere_never_breaks_the_server(front: Front, depth: int) -> None:
    nest = "[" * depth + "]" * depth
    image = '{"type":"image_url","image_url":{"url":"https://x/y.png"}}'
    for body in (
        f'{{"model":"{CHAT}","messages":[{{"role":"user","content":{nest}}}]}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user","content":[{image},{nest}]}}]}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user","content":"x"}}],"extra":{nest}}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user","content":"x"}}],"tools":{nest}}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"assistant","audio":null,"tool_calls":{nest}}}]}}',
        f'{{"model":"{CHAT}","messages":[],"stream":true,"stream_options":{{"x":{nest}}}}}',
        f'{{"model":"{EMBED}","input":{nest}}}',
    ):
        path = "/embeddings" if EMBED in body else "/chat/completions"
        answer = await front.post(path, body.encode())
        assert answer.status_code in (200, 400), (answer.status_code, answer.text[:200])
    assert (await front.chat()).status_code == 200


async def test_lone_surrogates_never_break_the_server(front: Front) -> None:
    image = '{"type":"image_url","image_url":{"url":"https://x/y.png"}}'
    text = '{"type":"text","text":"\\ud800"}'
    for body in (
        f'{{"model":"{CHAT}","messages":[{{"role":"user","content":"\\ud800"}}]}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user","content":[{text}]}}]}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user","content":[{image},{text}]}}]}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user","content":"\\u0000"}}],"\\ud800":1}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user\\ud800"}}]}}',
        f'{{"model":"{CHAT}\\ud800","messages":[{{"role":"user"}}]}}',
        f'{{"model":"{EMBED}","input":"\\ud800"}}',
        f'{{"model":"{EMBED}","input":["\\ud800"]}}',
        f'{{"model":"{IMAGE}","prompt":"\\ud800"}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user"}}],"prompt_cache_key":"\\ud800"}}',
        f'{{"model":"{CHAT}","messages":[{{"role":"user"}}],"user":"\\ud800"}}',
    ):
        path = next((p for p, b in PATHS.items() if b["model"] in body), "/chat/completions")
        answer = await front.post(path, body.encode())
        assert answer.status_code in (200, 400, 404), (answer.status_code, body)


@pytest.mark.parametrize("cut", ["\\ud800", "\\uDE00", "\\ud83dx"])
async def test_half_a_character_is_refused_in_words(front: Front, cut: str) -> None:
    """JSON.stringify writes one where JavaScript cut an emoji in two."""
    body = f'{{"model":"{CHAT}","messages":[{{"role":"user","content":"Hi {cut}"}}]}}'
    error = await refused(front, "/chat/completions", body.encode())
    assert cut[:6] in error["message"]
    assert "whole characters" in error["message"]


async def test_a_large_field_we_do_not_know_passes(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    documents = [{"title": f"a: {n}", "text": "words: and more " * 200} for n in range(100)]
    answer = await front.chat(documents=documents)
    assert answer.status_code == 200, answer.text
    assert front.fake.requests[-1].body["documents"] == documents


async def test_odd_keys_pass(front: Front) -> None:
    odd = {
        "": 1,
        "\u0000\u0001\n\u007f": 2,
        "k" * 10_000: 3,
        "schlüssel 密钥 😀": 4,
        '"quoted\\': 5,
        "__proto__": {"model": "other"},
        " model": "other",
        "model ": "other",
        "n.": 9,
    }
    answer = await front.chat(**odd)
    assert answer.status_code == 200
    got = front.fake.requests[-1].body
    assert {k: got[k] for k in odd} == odd
    assert got["model"] == "chat-1"


# -- billing fields ------------------------------------------------------------------------------

REFUSED: dict[str, Any] = {
    "models": ["a/b"],
    "route": "fallback",
    "provider": {"order": ["x"]},
    "plugins": [{"id": "web"}],
    "fallbacks": ["x"],
    "api_base": "https://evil.example",
    "service_tier": "priority",
    "web_search_options": {},
    "audio": {"voice": "alloy", "format": "mp3"},
}


async def test_billing_fields_are_400_by_name_and_in_any_case(front: Front) -> None:
    for name, value in REFUSED.items():
        await refused(front, "/chat/completions", PATHS["/chat/completions"] | {name: value}, name)
        for variant in (name.upper(), name.title()):
            body = PATHS["/chat/completions"] | {variant: value}
            await refused(front, "/chat/completions", body, variant)
    assert front.fake.requests == []


@pytest.mark.parametrize(
    "name",
    ["Model", "MODEL", "N", "Max_Tokens", "max_Completion_tokens", "Messages", "Stream"]
    + ["Stream_Options", "SERVICE_TIER", "Tools", "max_tokenſ", "Meſſageſ", "toolſ", "ſtream"],
)
async def test_a_billed_field_in_another_case_is_400(front: Front, name: str) -> None:
    await refused(front, "/chat/completions", PATHS["/chat/completions"] | {name: 1}, name)


async def test_embeddings_and_images_know_their_billed_fields_too(front: Front) -> None:
    await refused(front, "/embeddings", PATHS["/embeddings"] | {"Input": "x"}, "Input")
    await refused(front, "/images/generations", PATHS["/images/generations"] | {"N": 9}, "N")
    for name in ("models", "provider", "service_tier"):
        for path, body in PATHS.items():
            await refused(front, path, body | {name: "flex"}, name)


async def test_the_catalog_may_allow_a_billing_field(front: Front) -> None:
    front.shop.execute('UPDATE models SET allowed_fields = \'["service_tier", "provider"]\'')
    answer = await front.chat(service_tier="flex", provider={"order": ["x"]})
    assert answer.status_code == 200
    assert front.fake.requests[-1].body["service_tier"] == "flex"
    assert front.fake.requests[-1].body["provider"] == {"order": ["x"]}


async def test_duplicate_keys_collapse_to_the_last_one(front: Front) -> None:
    body = (
        '{"n":7,"max_tokens":9000,"model":"nope","stream":true,'
        '"messages":[{"role":"user","content":"first"}],'
        f'"model":"{CHAT}","max_tokens":5,"n":1,"stream":false,'
        '"messages":[{"role":"user","content":"last"}],"mod\\u0065l":"' + CHAT + '"}'
    )
    answer = await front.post("/chat/completions", body.encode())
    assert answer.status_code == 200
    got = front.fake.requests[-1]
    assert got.problems == []  # the fake lists keys that stand there twice
    assert got.body["messages"][0]["content"] == "last"
    assert (got.body["model"], got.body["n"], got.body["max_tokens"]) == ("chat-1", 1, 5)
    assert b"first" not in got.raw


# -- what is forwarded ---------------------------------------------------------------------------


async def test_values_go_upstream_with_the_bytes_they_came_in(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    values = {
        "temperature": "0.1000000000000000055511151231257827",
        "seed": "123456789012345678901234567890",
        "top_p": "1.0",
        "x_exp": "1E-7",
        "x_big": "1e400",
        "x_neg": "-0.0",
        "x_text": '"\\u00e9 \\/ \\ud83d\\ude00"',
        "x_list": '[1.0, 2, [ ], {"a" : 1.10}]',
        "logit_bias": '{"50256":-100}',
        "metadata": '{"k":"v"}',
        "stop": '["\\n"]',
    }
    body = f'{{"model":"{CHAT}","messages":[{{"role":"user","content":"caf\\u00e9"}}]'
    body += "".join(f',"{name}":{raw}' for name, raw in values.items()) + "}"
    answer = await front.post("/chat/completions", body.encode())
    assert answer.status_code == 200
    sent = front.fake.requests[-1].raw.decode()
    for name, raw in values.items():
        assert f'"{name}":{raw}' in sent, name
    assert '"messages":[{"role":"user","content":"caf\\u00e9"}]' in sent


def large(words: str = "", **more: Any) -> bytes:
    """A body that is read beside the event loop: an image of half a megabyte."""
    url = "data:image/png;base64," + "iVBO" * 131_072
    parts = [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": url}}]
    return json.dumps(
        {"model": CHAT, "messages": [{"role": "user", "content": parts}]} | more
    ).encode()


async def test_a_large_body_is_read_sent_and_refused_like_a_small_one(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    answer = await front.post("/chat/completions", large("what is it?"))
    assert answer.status_code == 200
    assert front.fake.requests[-1].body["messages"] == json.loads(large("what is it?"))["messages"]
    before = len(front.fake.requests)
    broken = await front.post("/chat/completions", large()[:-1])
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
    wrong = await front.post("/chat/completions", large(n="two"))
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "n")
    assert len(front.fake.requests) == before


async def test_a_client_that_leaves_while_its_large_body_is_read_is_not_held(front: Front) -> None:
    front.fake.script("/chat/completions", json_reply(completion()))
    tasks = [asyncio.create_task(front.post("/chat/completions", large())) for _ in range(6)]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await front.post("/chat/completions", large())).status_code == 200  # it goes on
    await front.settled()
    assert front.shop.value("SELECT sum(held) FROM accounts") == 0


async def test_each_billing_field_goes_upstream_as_billed(front: Front) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ({"max_tokens": 10**6}, {"max_tokens": 16_384}),
        ({"max_tokens": 9, "max_completion_tokens": 4}, {"max_tokens": 4}),
        ({"n": 2, "max_tokens": 5}, {"n": 2, "max_tokens": 5}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        ({"modalities": ["text"]}, {"modalities": ["text"]}),
        ({"stream": False}, {}),
    ]
    for sent, wanted in cases:
        answer = await front.chat(**sent)
        assert answer.status_code == 200, (sent, answer.text)
        got = front.fake.requests[-1].body
        for name in ("max_tokens", "max_completion_tokens", "n", "service_tier", "modalities"):
            assert got.get(name) == wanted.get(name), (sent, name, got)
        assert got["model"] == "chat-1"
        assert "stream" not in got
        assert "stream_options" not in got


async def test_usage_is_always_asked_for_upstream(front: Front) -> None:
    for options in (None, {"include_usage": False}, {"include_usage": True}):
        more = {} if options is None else {"stream_options": options}
        assert (await front.chat(stream=True, **more)).status_code == 200
        got = front.fake.requests[-1].body
        assert got["stream"] is True
        assert got["stream_options"]["include_usage"] is True


async def test_customers_of_one_provider_account_stay_apart(front: Front) -> None:
    await front.chat(
        user="ann@example.com",
        safety_identifier="ann",
        prompt_cache_key="my-cache",
        store=True,
    )
    got = front.fake.requests[-1]
    assert b"ann" not in got.raw
    assert got.body["store"] is False
    assert got.body["prompt_cache_key"].endswith("my-cache")
    assert got.body["prompt_cache_key"] != "my-cache"
    part = {"type": "file", "file": {"file_id": "file-123"}}
    await refused(
        front,
        "/chat/completions",
        {"model": CHAT, "messages": [{"role": "user", "content": [part]}]},
    )


async def test_no_key_of_ours_and_no_client_header_goes_upstream(front: Front) -> None:
    await front.post(
        "/chat/completions",
        PATHS["/chat/completions"],
        headers={"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "openai-organization": "org"},
    )
    got = front.fake.requests[-1]
    assert front.key not in str(got.headers)
    for name in ("cookie", "x-forwarded-for", "openai-organization", "authorization"):
        assert name not in got.headers


async def test_the_public_name_comes_back(front: Front) -> None:
    assert (await front.chat()).json()["model"] == CHAT
    text = (await front.chat(stream=True)).text
    assert f'"model":"{CHAT}"' in text.replace('": "', '":"')
    assert "chat-1" not in text
