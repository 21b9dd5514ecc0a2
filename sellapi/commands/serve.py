"""``sellapi serve``: the gateway itself."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sellapi.commands.common import Out, command
from sellapi.errors import Refused, UsageError

if TYPE_CHECKING:
    from sellapi.settings import Settings

__all__ = ["run", "serve"]

DEMO_DATABASE = "sellapi-demo.db"
BACKLOG = 2_048
"""Connections the system accepts for us while we are busy; those beyond it try again after 1, 3 and 7
seconds."""


@command(
    None,
    "serve",
    example="sellapi serve\nsellapi serve --demo\nsellapi serve --host 0.0.0.0 --behind-tls-proxy",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0: any free one.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Processes; only 1 with memory:// limits.",
)
@click.option("--demo", is_flag=True, help=f"Try everything offline, on {DEMO_DATABASE}.")
@click.option(
    "--behind-tls-proxy", is_flag=True, help="A TLS proxy stands in front: allow any host."
)
def serve(
    out: Out, *, host: str, port: int, workers: int, demo: bool, behind_tls_proxy: bool
) -> None:
    """Serve the API until Ctrl+C or SIGTERM; running answers are finished first."""
    if not _is_loopback(host) and not behind_tls_proxy:
        raise UsageError(
            f"--host {host} would carry keys in the clear: put a TLS proxy (nginx, Caddy) in front "
            "and say --behind-tls-proxy"
        )
    if workers > 1:
        raise Refused(
            "with memory:// limits every worker would count for itself: use --workers 1 "
            "(one worker serves thousands of requests a second)"
        )
    _log_to_stderr()
    from sellapi.settings import Settings

    settings = Settings.load({"database": _demo_database(out.path) if demo else out.path})
    with _listen(host, port) as sock:
        key = None
        if demo:
            from sellapi.commands.demo import open_demo_shop

            key = open_demo_shop(settings)
        run(settings, sock, lambda url: _announce(out, settings, url, key))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _demo_database(configured: str) -> str:
    """The demo has a database of its own; any other is refused."""
    if Path(configured).name in (DEMO_DATABASE, "sellapi.db"):
        return str(Path(configured).with_name(DEMO_DATABASE))
    undo = (
        "unset SELLAPI_DATABASE" if os.environ.get("SELLAPI_DATABASE") else "leave --database out"
    )
    raise Refused(f"--demo only works on its own {DEMO_DATABASE}, never on {configured}: {undo}")


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket, taken first: a port in use is told before anything is touched."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        hint = (
            "use another --port" if error.errno == errno.EADDRINUSE else "check --host and --port"
        )
        words = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise Refused(f"cannot listen on {host}:{port}: {words}; {hint}") from None


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for noisy in ("sanic.root", "sanic.error", "sanic.access", "sanic.server", "httpx", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _announce(out: Out, settings: Settings, url: str, demo_key: str | None) -> None:
    if out.as_json:
        told = {"url": url, "database": settings.database}
        out.json(told | ({"key": demo_key} if demo_key else {}))
    else:
        click.echo(f"sellapi serves {url}", err=True)
        if demo_key is not None:
            from sellapi.commands.demo import welcome

            click.echo(welcome(url, demo_key))
    sys.stdout.flush()


def run(settings: Settings, sock: socket.socket, announce: Any) -> None:
    """Serve on a listening socket until told to stop; ``announce(url)`` is called when ready."""
    from sanic import Sanic

    from sellapi.api.app import create_app
    from sellapi.api.protocol import GuardedProtocol, raise_file_limit
    from sellapi.bootstrap import Services

    raise_file_limit()
    services = Services(settings)
    services.database.check_owner()
    swept = services.prepare()
    if swept:
        click.echo(f"Closed {swept} requests that a server left open when it was killed.", err=True)
    app = create_app(services)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    @app.after_server_start
    async def ready(_app: object) -> None:
        announce(f"http://{shown}:{port}/v1")

    try:
        app.run(
            sock=sock,
            backlog=BACKLOG,  # Sanic listens again, by itself with 100
            protocol=GuardedProtocol,
            single_process=True,
            motd=False,
            access_log=False,
        )
    finally:
        services.stop()
        services.leave_one_file()
        Sanic.unregister_app(app)
