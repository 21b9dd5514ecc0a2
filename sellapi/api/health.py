"""GET /health (the process is alive) and /ready (it can serve)."""

from __future__ import annotations

import asyncio

from sanic import Blueprint, HTTPResponse, Request

from sellapi.api.respond import json_response, reads
from sellapi.bootstrap import Services

__all__ = ["blueprint"]

blueprint = Blueprint("health")


@reads(blueprint, "/health")
async def health(request: Request) -> HTTPResponse:
    return json_response(request, {"status": "ok"})


@reads(blueprint, "/ready")
async def ready(request: Request) -> HTTPResponse:
    """200 when database, schema and at least one provider are usable, else 503 and what is not."""
    services: Services = request.app.ctx.services
    checks = await asyncio.to_thread(services.readiness)
    ok = all(check["ok"] for check in checks.values())
    body = {"status": "ready" if ok else "not ready", "checks": checks}
    return json_response(request, body, status=200 if ok else 503)
