"""A small shop with a past, made once, copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sellapi.admin.service import Admin
from sellapi.admin.setup import init
from sellapi.commands.tui import open_shop
from tools.demo_shop import ENV, DemoShop


@pytest.fixture(scope="session")
def _stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    shop = DemoShop(path)
    shop.people()
    shop.past(days=4, a_day=10, today=60, hour=60)
    with shop.database.read() as tx:
        tx.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shop.close()
    return path


@pytest.fixture(autouse=True)
def _provider_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def shop(_stocked: Path, tmp_path: Path) -> Path:
    """A database with users, sales and requests."""
    path = tmp_path / "shop.db"
    shutil.copy(_stocked, path)
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A database as `sellapi init` leaves it."""
    path = tmp_path / "empty.db"
    init(path, actor="test", via="cli", env={})
    return path


@pytest.fixture
def admin(shop: Path) -> Iterator[Admin]:
    """What another operator does meanwhile."""
    admin = open_shop(shop)
    yield admin
    admin.desk.database.close()
