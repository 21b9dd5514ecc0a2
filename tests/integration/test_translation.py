"""Every row of docs/translation.md, sent through a running gateway to a strict provider of each kind."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.world import CHAT, World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOC = Path(__file__).parents[2] / "docs" / "translation.md"
PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = base64.b64encode(b"%PDF-1.7 tiny").decode()
USER = {"role": "user", "content": "Hi"}


def function(name: str, parameters: Any = None) -> Any:
    inner = {"name": name, "description": name}
    return {
        "type": "function",
        "function": inner | ({"parameters": parameters} if parameters else {}),
    }


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [function("get_weather", CITY), function("get_time")]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CUSTOM = {"type": "custom", "custom": {"name": "shell", "description": "x"}}
NAMED = {"type": "function", "function": {"name": "get_time"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}

PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "`max_tokens`": ({"max_tokens": 50}, {}),
    "`max_completion_tokens`": ({"max_completion_tokens": 50}, {}),
    "`temperature`": ({"temperature": 1.5}, {}),
    "`top_p`": ({"top_p": 0.5}, {}),
    "`n` (2)": ({"n": 2}, {}),
    "`stop`": ({"stop": ["END", "STOP"]}, {}),
    "`seed`": ({"seed": 2**40}, {}),
    "`presence_penalty`": ({"presence_penalty": 0.5}, {}),
    "`frequency_penalty`": ({"frequency_penalty": 0.5}, {}),
    "`logit_bias`": ({"logit_bias": {"50256": -100}}, {}),
    "`logprobs` (true)": ({"logprobs": True}, {}),
    "`logprobs` (false)": ({"logprobs": False}, {}),
    "`top_logprobs`": ({"top_logprobs": 3}, {"logprobs": True}),
    "`tools`": ({"tools": TOOLS}, {}),
    "`tools` (custom)": ({"tools": [CUSTOM]}, {}),
    "`tool_choice` (none)": ({"tool_choice": "none"}, {"tools": TOOLS}),
    "`tool_choice` (required)": ({"tool_choice": "required"}, {"tools": TOOLS}),
    "`tool_choice` (named)": ({"tool_choice": NAMED}, {"tools": TOOLS}),
    "`tool_choice` (allowed_tools)": ({"tool_choice": ALLOWED}, {"tools": TOOLS}),
    "`parallel_tool_calls` (false)": ({"parallel_tool_calls": False}, {"tools": TOOLS}),
    "`functions`": ({"functions": [{"name": "f", "parameters": CITY}]}, {}),
    "`response_format` (json_object)": ({"response_format": {"type": "json_object"}}, {}),
    "`response_format` (json_schema)": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": SCHEMA},
            }
        },
        {},
    ),
    "`response_format` (text)": ({"response_format": {"type": "text"}}, {}),
    "`reasoning_effort`": ({"reasoning_effort": "low"}, {}),
    "`verbosity`": ({"verbosity": "low"}, {}),
    "`modalities` (text)": ({"modalities": ["text"]}, {}),
    "`modalities` (audio)": ({"modalities": ["text", "audio"]}, {}),
    "`audio`": ({"audio": {"voice": "alloy", "format": "wav"}}, {}),
    "`prediction`": ({"prediction": {"type": "content", "content": "x"}}, {}),
    "`web_search_options`": ({"web_search_options": {}}, {}),
    "`moderation`": ({"moderation": {"model": "omni-moderation-latest"}}, {}),
    "`store` (true)": ({"store": True}, {}),
    "`metadata`": ({"metadata": {"a": "b"}}, {}),
    "`service_tier` (auto)": ({"service_tier": "auto"}, {}),
    "`service_tier` (default)": ({"service_tier": "default"}, {}),
    "`service_tier` (flex)": ({"service_tier": "flex"}, {}),
    "`user`": ({"user": "someone@example.com"}, {}),
    "`safety_identifier`": ({"safety_identifier": "someone@example.com"}, {}),
    "`prompt_cache_key`": ({"prompt_cache_key": "k"}, {}),
    "`prompt_cache_retention`": ({"prompt_cache_retention": "24h"}, {}),
    "`cache_control`": ({"cache_control": {"type": "ephemeral"}}, {}),
    "`top_k`": ({"top_k": 5}, {}),
    "`made_up_field`": ({"made_up_field": {"a": [1]}}, {}),
}
"""What each row sends, and what must stand beside it."""


def call(name: str, arguments: str, identifier: str = "call_1") -> Any:
    inner = {"name": name, "arguments": arguments}
    return {"id": identifier, "type": "function", "function": inner}


def asked(*parts: Any) -> Any:
    return [{"role": "user", "content": [{"type": "text", "text": "See"}, *parts]}]


def picture(url: str) -> Any:
    return {"type": "image_url", "image_url": {"url": url}}


def file(**fields: Any) -> Any:
    return {"type": "file", "file": fields}


def called(*calls: Any, results: Any = ()) -> Any:
    answers = [{"role": "tool", "tool_call_id": i, "content": "9"} for i in results]
    return [USER, {"role": "assistant", "content": None, "tool_calls": list(calls)}, *answers, USER]


TWO = (call("get_weather", '{"city":"A"}', "a"), call("get_time", "{}", "b"))
SDK_MESSAGE = {
    "role": "assistant",
    "content": "Hello",
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": None,
    "parsed": None,
    "reasoning_content": "Hm.",
}
MESSAGES: dict[str, Any] = {
    "system and developer messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        USER,
        {"role": "system", "content": "Be quick."},
        USER,
    ],
    "image, `data:` URL": asked(picture(PNG)),
    "image, `http:` URL": asked(picture("http://example.com/a.png")),
    "image at a private address": asked(picture("https://10.0.0.1/a.png")),
    "PDF": asked(file(filename="a.pdf", file_data=PDF)),
    "text file": asked(file(filename="a.txt", file_data="data:text/plain;base64,aGVsbG8=")),
    "`input_audio`": asked(
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    ),
    "`file_id`": asked(file(file_id="file-123")),
    "unknown kind of part": asked({"type": "video_url", "video_url": {"url": "https://x.test/v"}}),
    "tool results in any order": called(*TWO, results="ba"),
    "tool result missing": called(*TWO, results="b"),
    "arguments that are no JSON": called(call("get_weather", '{"city'), results=["call_1"]),
    "empty arguments": called(call("get_time", ""), results=["call_1"]),
    "custom tool call in the history": called(
        {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls"}}, results=["c"]
    ),
    "empty and null content": [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": ""}]},
        {"role": "assistant", "content": None, "tool_calls": [call("get_time", "{}")]},
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
    ],
    "the SDK's own message object": [USER, SDK_MESSAGE, USER],
}
EMBEDDINGS: dict[str, Any] = {
    "`input` (string)": {"input": "one"},
    "`input` (strings)": {"input": ["one", "two"]},
    "`input` (token ids)": {"input": [1, 2, 3]},
    "`encoding_format` (base64)": {"input": "one", "encoding_format": "base64"},
    "`dimensions`": {"input": "one", "dimensions": 256},
}
IMAGES: dict[str, Any] = {
    "`n` (2)": {"n": 2},
    "`size` (1536x1024)": {"size": "1536x1024"},
    "`size` (4096x1024)": {"size": "4096x1024"},
    "`quality`": {"quality": "low"},
    "`output_format` (jpeg)": {"output_format": "jpeg"},
    "`output_format` (webp)": {"output_format": "webp"},
    "`background` (transparent)": {"background": "transparent"},
    "`response_format` (b64_json)": {"response_format": "b64_json"},
    "`response_format` (url)": {"response_format": "url"},
    "`stream` (true)": {"stream": True},
}


def tables() -> list[dict[str, dict[str, str]]]:
    """The page's tables that begin with ``field``: by row, by column."""
    found = []
    for block in re.findall(r"^\| field .*?(?=\n\n|\Z)", DOC.read_text(), re.DOTALL | re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        found.append({row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows})
    return found


def rows(table: int, columns: tuple[str, ...]) -> list[Any]:
    found = tables()[table].items()
    return [(name, column, words[column]) for name, words in found for column in columns]


KINDS = ("openai", "anthropic", "gemini")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def providers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with world(tmp_path_factory.mktemp("world")) as found:
        for link in found.gateway.services.registry.links():
            # As if they were on the internet; test_media_urls.py has them inside.
            link.private, link._inside = False, (time.monotonic(), False)
        yield found


@pytest.fixture
def shop(providers: World) -> World:
    return providers.newcomer()


async def sent(shop: World, kind: str, path: str, body: Any) -> Any:
    """What reached the provider for a request that must succeed."""
    response = await shop.post(path, body)
    assert response.status_code == 200, response.text
    return shop.last(kind)


async def check(
    shop: World, kind: str, path: str, *, word: str, plain: Any, more: Any, param: str
) -> None:
    """That ``more`` is treated as the page's ``word`` says."""
    if word == "400":
        response = await shop.post(path, plain | more)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["type"] == "invalid_request_error"
        named = response.json()["error"]["param"] or ""
        assert named.startswith(param) or (named, param) == ("logprobs", "top_logprobs")
        assert not (shop.openai.requests)
        assert not (shop.anthropic.requests)
        assert not (shop.google.requests)
        return
    before = await sent(shop, kind, path, plain)
    after = await sent(shop, kind, path, plain | more)
    if word == "passed":
        assert {name: after.get(name) for name in more} == more
    elif word == "mapped":
        assert after != before
    else:
        assert word == "ignored"
        assert after == before


@pytest.mark.parametrize("row, kind, word", rows(0, KINDS))
async def test_a_parameter_is_treated_as_the_page_says(
    shop: World, row: str, kind: str, word: str
) -> None:
    """Passed, mapped, ignored or refused, for a model of each kind."""
    more, beside = PARAMETERS[row]
    plain = {"model": CHAT[kind], "messages": [USER]} | beside
    param = row.split("`")[1]
    await check(shop, kind, "/chat/completions", word=word, plain=plain, more=more, param=param)


@pytest.mark.parametrize("row, kind, word", rows(1, KINDS))
async def test_a_message_is_treated_as_the_page_says(
    shop: World, row: str, kind: str, word: str
) -> None:
    """Content of every sort, for a model of each kind."""
    shop.openai.strict = "unknown" not in row  # the SDK's types do not know it either
    plain = {"model": CHAT[kind], "messages": [USER]}
    more = {"messages": MESSAGES[row]}
    await check(
        shop, kind, "/chat/completions", word=word, plain=plain, more=more, param="messages["
    )


@pytest.mark.parametrize("row, kind, word", rows(2, ("openai", "gemini")))
async def test_an_embeddings_field_is_treated_as_the_page_says(
    shop: World, row: str, kind: str, word: str
) -> None:
    """Texts, token ids, encodings and sizes."""
    model = {"openai": "openai/text-embedding-3-small", "gemini": "google/gemini-embedding-001"}
    plain = {"model": model[kind], "input": "plain"}
    more, param = EMBEDDINGS[row], row.split("`")[1]
    await check(shop, kind, "/embeddings", word=word, plain=plain, more=more, param=param)


@pytest.mark.parametrize("row, column, word", rows(3, ("openai", "gemini", "predict")))
async def test_an_images_field_is_treated_as_the_page_says(
    shop: World, row: str, column: str, word: str
) -> None:
    """Numbers, shapes and formats of images."""
    model = {"openai": "openai/gpt-image-2", "gemini": "google/gemini-3.1-flash-image"}
    plain = {"model": model.get(column, "google/imagen-4.0-generate-001"), "prompt": "A cat"}
    more, param = IMAGES[row], row.split("`")[1]
    kind = "openai" if column == "openai" else "gemini"
    path = "/images/generations"
    if (row, column) == ("`n` (2)", "gemini"):
        await sent(shop, kind, path, plain | more)
        assert len(shop.google.requests) == 2
        return
    await check(shop, kind, path, word=word, plain=plain, more=more, param=param)


async def test_the_page_and_the_examples_name_the_same_rows() -> None:
    """No row goes untested and no example is undocumented."""
    examples = (PARAMETERS, MESSAGES, EMBEDDINGS, IMAGES)
    assert [set(table) for table in tables()] == [set(example) for example in examples]
