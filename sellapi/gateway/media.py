"""Files named by URL, fetched through the guard: those of a prompt, and images a provider drew."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import orjson

from sellapi.errors import InvalidRequest, UpstreamFailed
from sellapi.upstream import guard
from sellapi.upstream.adapter import Answer, Media, UpstreamFailure

__all__ = ["fetch_media", "inline_images"]

FILES_MAX = 32
FILE_MAX_BYTES = 20 * 1024 * 1024
TOTAL_MAX_BYTES = 32 * 1024 * 1024
"""All files of one request together: as much as a body may have that brings them along."""
SIDE_BY_SIDE = 4
TIMEOUT_S = 15.0


async def fetch_media(urls: Mapping[str, str], *, leave_unknown: bool = False) -> dict[str, Media]:
    """The files of a request, by URL; ``urls`` maps each to the place it stands at.

    With ``leave_unknown`` a URL whose public-looking host cannot be looked up from here is left out,
    for the provider to fetch: a gateway without DNS of its own still passes URLs on. Raises
    `InvalidRequest` naming the place.
    """
    if len(urls) > FILES_MAX:
        raise InvalidRequest(
            f"At most {FILES_MAX} files are fetched for one request.", param="messages"
        )
    room = asyncio.Semaphore(SIDE_BY_SIDE)
    found: dict[str, Media] = {}

    async def one(url: str, place: str) -> None:
        async with room:
            if leave_unknown and await guard.is_unknown_here(url):
                return
            media = await guard.fetch(
                url, max_bytes=FILE_MAX_BYTES, timeout_s=TIMEOUT_S, param=place
            )
            found[url] = media
            if sum(len(m.data) for m in found.values()) > TOTAL_MAX_BYTES:
                raise InvalidRequest(
                    f"The files of one request may have {TOTAL_MAX_BYTES} bytes together.",
                    param=place,
                )

    try:
        async with asyncio.TaskGroup() as group:
            for url, place in urls.items():
                group.create_task(one(url, place))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return found


async def inline_images(answer: Answer) -> Answer:
    """An images answer whose provider sent URLs, with the images in their place.

    Images that cannot be fetched are left out (k of n); raises `UpstreamFailure` when none can.
    """
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(url: str) -> bytes | None:
        async with room:
            try:
                media = await guard.fetch(url, max_bytes=FILE_MAX_BYTES, timeout_s=TIMEOUT_S)
            except InvalidRequest:  # its words are for a customer's URL
                return None
        return media.data if media.mime.startswith("image/") else None

    urls = dict.fromkeys(answer.image_urls)
    fetched = dict(zip(urls, await asyncio.gather(*map(one, urls)), strict=True))
    body = orjson.loads(answer.body)
    items = []
    for item in body["data"]:
        if "url" in item:
            data = fetched.get(item.pop("url"))
            if data is None:
                continue
            item["b64_json"] = base64.b64encode(data).decode()
        items.append(item)
    if not items:
        raise UpstreamFailure(
            UpstreamFailed("The provider drew images that cannot be fetched. Try again."),
            reason="garbage",
        )
    body["data"] = items
    usage = answer.usage and msgspec.structs.replace(answer.usage, images=len(items))
    return replace(answer, body=orjson.dumps(body), usage=usage, images=len(items), image_urls=())
