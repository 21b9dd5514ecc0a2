"""Bare Sanic, the yardstick: ``python -m bench.bare PORT`` sends an answer of the usual size."""

from __future__ import annotations

import sys
from typing import Any

from sanic import HTTPResponse, Request, Sanic, raw

from bench.payloads import openai_answer

ANSWER = openai_answer()
app: Sanic[Any, Any] = Sanic("bare")


@app.post("/<path:path>")
async def answer(request: Request, path: str) -> HTTPResponse:
    del request, path
    return raw(ANSWER, content_type="application/json")


if __name__ == "__main__":
    app.run(
        host="127.0.0.1", port=int(sys.argv[1]), single_process=True, motd=False, access_log=False
    )
