"""The POST routes: chat completions, embeddings, images. All three are the same line."""

from __future__ import annotations

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


@blueprint.post("/chat/completions", stream=True)
async def chat(request: Request) -> None:
    await _answer(request, "chat")


@blueprint.post("/embeddings", stream=True)
async def embeddings(request: Request) -> None:
    await _answer(request, "embedding")


@blueprint.post("/images/generations", stream=True)
async def images(request: Request) -> None:
    await _answer(request, "image")
