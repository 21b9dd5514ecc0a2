"""GET /v1/models and /v1/models/{slug}: what is offered, at what price, to whom."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from sanic import Blueprint, HTTPResponse, Request

from sellapi.api.account import key_headers
from sellapi.api.intake import address_of
from sellapi.api.respond import json_response, reads
from sellapi.domain.catalog import Catalog, Model
from sellapi.errors import ModelNotFound
from sellapi.gateway.pipeline import Gateway
from sellapi.storage.snapshot import Caller
from sellapi.wire.models import model_json

__all__ = ["blueprint"]

blueprint = Blueprint("models")


async def _seen_by(request: Request) -> tuple[Catalog, Caller | None, dict[str, str]]:
    """The catalog, and who looks at it when a key was sent (a bad key is still 401)."""
    gateway: Gateway = request.app.ctx.gateway
    catalog = await gateway.shop.current_catalog()
    authorization = request.headers.get("authorization")
    if not authorization:
        return catalog, None, {}
    caller = await gateway.shop.authenticate(authorization, address_of(request), fresh=True)
    return catalog, caller, key_headers(request, catalog, caller)


def _shown(gateway: Gateway, model: Model, caller: Caller | None) -> dict[str, Any]:
    shown = model_json(model)
    if caller is not None:
        shown["available"] = gateway.shop.available_to(model, caller)
    return shown


@reads(blueprint, "/models")
async def list_models(request: Request) -> HTTPResponse:
    catalog, caller, headers = await _seen_by(request)
    gateway: Gateway = request.app.ctx.gateway
    offered = [m for m in catalog.models.values() if gateway.shop.sellable(m)]
    data = [_shown(gateway, m, caller) for m in offered]
    return json_response(request, {"object": "list", "data": data}, headers)


@reads(blueprint, "/models/<slug:path>")
async def show_model(request: Request, slug: str) -> HTTPResponse:
    # openai-py and openai-js send the slash as %2F, others as it is; one at the end says nothing
    slug = unquote(slug).rstrip("/")
    if not slug:
        return await list_models(request)
    catalog, caller, headers = await _seen_by(request)
    gateway: Gateway = request.app.ctx.gateway
    model = catalog.models.get(slug)
    if model is None or not gateway.shop.sellable(model):
        raise ModelNotFound(
            f"There is no model '{slug[:100]}' here: see GET /v1/models for what is offered.",
            param="model",
        )
    return json_response(request, _shown(gateway, model, caller), headers)
