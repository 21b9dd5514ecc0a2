"""The POST routes: chat completions, embeddings, images. All three are the same line."""

from __future__ import annotations

from functools import partial

from sanic import Blueprint, Request

from sellapi.api.intake import Budget, read_ask
from sellapi.api.respond import Wire
from sellapi.errors import ApiError, InternalError

__all__ = ["blueprint"]

blueprint = Blueprint("completions")


async def _answer(request: Request, mode: str) -> None:
    ask, taken = await read_ask(request, mode)
    budget: Budget = request.app.ctx.budget
    wire = Wire(request, request.app.ctx.pinger)
    try:
        await request.app.ctx.gateway.serve(ask, wire)
    except Exception as error:
        if not wire.started:
            raise
        # The 200 has left: the error can only be an event.
        told = error if isinstance(error, ApiError) else InternalError("Something went wrong here.")
        await wire.fail(told)
        if told is not error:
            raise
    finally:
        wire.close()
        budget.give(*taken)


for uri, mode in (
    ("/chat/completions", "chat"),
    ("/embeddings", "embedding"),
    ("/images/generations", "image"),
):
    handler = partial(_answer, mode=mode)
    blueprint.add_route(handler, uri, methods=("POST",), name=mode, stream=True)
