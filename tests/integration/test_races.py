"""Several processes on one account at the same moment."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from sellapi.admin import Admin
from sellapi.errors import Refused
from sellapi.storage.database import Database
from sellapi.storage.verify import verify
from tests.support.process import SOURCE, clean_env
from tests.support.shop import open_shop
from tests.support.shopfront import CHAT, HELLO, open_front

EMAIL = "customer@example.com"


def _admin(path: str) -> Admin:
    return Admin(Database.open(path), actor="race", via="cli", env={})


def _deduct(path: str, start: float, most: int) -> int:
    """How many deductions of one credit were done: until one is refused, at most so many."""
    admin = _admin(path)
    time.sleep(max(0.0, start - time.time()))
    for done in range(most):
        try:
            admin.credits.deduct(EMAIL, "1", reason="race")
        except Refused:
            return done
    return most


def _sell_each(path: str, start: float, references: list[str]) -> list[tuple[int, bool]]:
    admin = _admin(path)
    time.sleep(max(0.0, start - time.time()))
    sales = [admin.packs.sell(EMAIL, "fivers", reference=r) for r in references]
    return [(sale.entry, sale.repeated) for sale in sales]


@pytest.fixture
def processes():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        list(pool.map(int, range(3)))  # all are up before anything is measured
        yield pool


async def test_parallel_requests_and_processes_never_spend_more_than_there_is(tmp_path, processes):
    loop = asyncio.get_running_loop()
    async with open_front(tmp_path, grant=1_000, tier="pro") as front:
        path = str(front.shop.database.path)

        async def deduct(start: float, most: int) -> int:
            jobs = [loop.run_in_executor(processes, _deduct, path, start, most) for _ in range(2)]
            return sum(await asyncio.gather(*jobs))

        async def buy(start: float, most: int) -> int:
            await asyncio.sleep(max(0.0, start - time.time()))
            for charged in range(most):
                body = {"model": CHAT, "messages": HELLO, "max_tokens": 30}
                reply = await front.post("/chat/completions", body)
                if reply.status_code != 200:
                    assert reply.status_code == 402, reply.text
                    return charged
            return most

        async def buy_side_by_side(start: float, most: int) -> int:
            return sum(await asyncio.gather(*(buy(start, most) for _ in range(12))))

        # Once each beforehand: all have loaded what they need, so neither side is done with the
        # credits before the other begins, however slow the machine.
        answered, deducted = await buy_side_by_side(0, 1), await deduct(0, 1)
        assert (answered, deducted) == (12, 2)
        start = time.time() + 0.3
        more_deducted, more_answered = await asyncio.gather(
            deduct(start, 1_000), buy_side_by_side(start, 1_000)
        )
        answered, deducted = answered + more_answered, deducted + more_deducted
        await front.settled(answered)
        charges = front.shop.value("SELECT sum(charge) FROM requests")
        left = front.balance()
        assert left + charges + deducted * 1_000_000 == 1_000_000_000
        assert front.shop.account(front.account)["owed"] == 0
        assert left < 100_000_000  # they went on until all else was held or spent
        assert verify(front.shop.database).difference is None


def test_a_reference_sold_by_two_processes_at_once_credits_once(tmp_path, processes):
    path = tmp_path / "shop.db"
    admin = open_shop(path)
    admin.users.add(EMAIL)
    admin.packs.add("fivers", amount="500", price_usd="5")
    references = [f"invoice-{n}" for n in range(40)]
    start = time.time() + 0.5
    jobs = [processes.submit(_sell_each, str(path), start, references) for _ in range(2)]
    first, second = (job.result() for job in jobs)
    for (entry, repeated), (other_entry, other_repeated) in zip(first, second, strict=True):
        assert entry == other_entry
        assert {repeated, other_repeated} == {False, True}
    assert verify(admin.desk.database).difference is None
    with admin.desk.database.read() as tx:
        assert tx.value("SELECT count(*) FROM entries WHERE kind = 'sale'") == len(references)


def test_two_command_lines_selling_one_reference_at_once_say_which_was_first(tmp_path):
    env = clean_env(tmp_path, SELLAPI_DATABASE=str(tmp_path / "sellapi.db"))
    _cli(tmp_path, env, "init")
    _cli(tmp_path, env, "users", "add", EMAIL)
    _cli(tmp_path, env, "packs", "add", "fivers", "--credits", "500", "--price-usd", "5")
    sell = ("packs", "sell", EMAIL, "fivers", "--reference", "inv-1", "--json")
    children = [
        subprocess.Popen([*SOURCE, *sell], cwd=tmp_path, env=env, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    told = [json.loads(child.communicate()[0]) for child in children]
    assert sorted(t["repeated"] for t in told) == [False, True, True]
    assert len({t["entry"] for t in told}) == 1


def _cli(folder: Path, env: dict[str, str], *words: str) -> None:
    subprocess.run([*SOURCE, *words], cwd=folder, env=env, check=True, capture_output=True)
