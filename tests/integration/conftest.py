"""Which event loop a module's tests run on: asyncio's, or those it names as ``LOOPS``."""

from __future__ import annotations

import asyncio

DEFAULT = {"asyncio": asyncio.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    return getattr(item.module, "LOOPS", DEFAULT)
