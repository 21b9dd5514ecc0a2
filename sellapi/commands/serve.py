"""``sellapi serve``: the gateway itself."""

from __future__ import annotations

import ipaddress
import logging
import sys
from pathlib import Path

import click

from sellapi.errors import Refused, UsageError

__all__ = ["serve"]

DEMO_DATABASE = "sellapi-demo.db"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--demo", is_flag=True, help=f"Try everything offline, on {DEMO_DATABASE}.")
@click.option(
    "--behind-tls-proxy", is_flag=True, help="A TLS proxy stands in front: allow any host."
)
@click.option("--database", default=None, help="Path of the database (SELLAPI_DATABASE).")
def serve(
    host: str, port: int, workers: int, demo: bool, behind_tls_proxy: bool, database: str | None
) -> None:
    r"""Serve the API.

    \b
    Examples:
      sellapi serve
      sellapi serve --demo
      sellapi serve --host 0.0.0.0 --behind-tls-proxy
    """
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

    if demo:
        database = _demo_database(Settings.load({"database": database}).database)
    settings = Settings.load({"database": database})
    if demo:
        from sellapi.commands.demo import open_demo_shop

        key = open_demo_shop(settings)
    _run(settings, host, port, demo_key=key if demo else None)


def _demo_database(configured: str) -> str:
    """The demo has a database of its own; any other is refused."""
    name = Path(configured).name
    if name not in (DEMO_DATABASE, "sellapi.db"):
        raise Refused(
            f"--demo only works on its own {DEMO_DATABASE}, never on {configured}: "
            "leave the database out"
        )
    return str(Path(configured).with_name(DEMO_DATABASE))


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for noisy in ("sanic.root", "sanic.error", "sanic.access", "sanic.server", "httpx", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _run(settings: object, host: str, port: int, *, demo_key: str | None) -> None:
    from sanic import Sanic

    from sellapi.api.app import create_app
    from sellapi.api.protocol import GuardedProtocol, raise_file_limit
    from sellapi.bootstrap import Services
    from sellapi.settings import Settings

    assert isinstance(settings, Settings)
    raise_file_limit()
    services = Services(settings)
    services.database.check_owner()
    swept = services.prepare()
    if swept:
        click.echo(f"Gave back {swept} holds of a server that had stopped.", err=True)
    app = create_app(services)

    @app.after_server_start
    async def announce(_app: object) -> None:
        listening = _port_of(app, port)
        click.echo(f"sellapi serves http://{host}:{listening}/v1", err=True)
        if demo_key is not None:
            from sellapi.commands.demo import welcome

            click.echo(welcome(host, listening, demo_key))
            sys.stdout.flush()

    try:
        app.run(
            host=host,
            port=port,
            protocol=GuardedProtocol,
            backlog=2_048,
            single_process=True,
            motd=False,
            access_log=False,
        )
    except OSError as error:
        raise Refused(f"cannot listen on {host}:{port}: {error.strerror}") from None
    finally:
        services.stop()
        Sanic.unregister_app(app)


def _port_of(app: object, port: int) -> int:
    if port:
        return port
    state = app.state  # type: ignore[attr-defined]
    return int(getattr(state, "port", 0) or 0)
