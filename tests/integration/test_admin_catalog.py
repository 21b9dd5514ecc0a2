"""Providers, models and prices: what an operator may say, and what is never stored."""

import asyncio
import json
import time

import pytest

from sellapi.admin import importer, to_json
from sellapi.admin.words import parse_day
from sellapi.domain.usage import Usage
from sellapi.errors import Refused, UsageError
from sellapi.storage.journal import Instance, flush_stats
from sellapi.storage.snapshot import read_catalog
from sellapi.upstream import engines
from tests.support.fake_openai import FakeOpenAI, error_reply
from tests.support.shop import Requests, open_shop, quick

FREE = {
    "openai/gpt-6-luna",
    "openai/gpt-5.4-nano",
    "anthropic/claude-haiku-5.5",
    "google/gemini-2.5-flash-lite",
    "openai/text-embedding-3-small",
}
SEED = {
    "anthropic/claude-sonnet-4.6",
    "openai/gpt-5.4",
    "openai/text-embedding-3-small",
    "google/imagen-4.0-generate-001",
}
NOW = 1_795_400_000


@pytest.fixture
def admin(tmp_path):
    admin = open_shop(
        tmp_path / "shop.db", env={"OPENAI_API_KEY": "sk-proj-secret"}, clock=lambda: NOW
    )
    quick(admin.desk.database)
    return admin


def test_the_default_catalog_has_the_contracts_models_prices_and_tiers(admin):
    models = {m.slug: m for m in admin.models.list()}
    assert {s for s, m in models.items() if m.tier == "free"} == FREE
    assert models.keys() >= SEED | FREE
    assert models["openai/gpt-5.4"].prices == {
        "input": "2.5", "cache_read": "0.25", "output": "15", "long_context": 272_000,
        "long_input": "5", "long_cache_read": "0.5", "long_output": "22.5",
    }  # fmt: skip
    imagen = models["google/imagen-4.0-generate-001"]
    assert (imagen.mode, imagen.upstream) == ("image", "gemini-3.1-flash-image")
    assert "Gemini 3.1 Flash Image" in imagen.name
    assert set(imagen.prices) == {"images"}
    assert {s for s, m in models.items() if m.available} == {s for s in models if s[:6] == "openai"}
    assert [(t.name, t.rpm, t.account_rpm) for t in admin.tiers.list()] == [
        ("free", 20, 60),
        ("pro", 600, 3000),
    ]


def test_a_price_announced_for_later_takes_over_on_its_day(admin):
    with admin.desk.database.read() as tx:
        now, then = (read_catalog(tx, at) for at in (NOW, 1_798_761_600))
    slug = "google/gemini-3.8-flash"
    assert now.models[slug].prices.input == 750_000
    assert then.models[slug].prices.input == 1_500_000
    assert now.next_change_at == 1_798_761_600


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("openai", "https://api.openai.com"),
        ("openai", "https://host/v1/chat/completions"),
        ("openai", "ftp://host/v1"),
        ("openai", "https://[host/v1"),
        ("openai", "https://host:port/v1"),
        ("openai", "host/v1"),
        ("openai", "https://user:pass@host/v1"),
        ("openai", "https://host/v1?key=abc"),
        ("anthropic", "https://api.anthropic.com/v1"),
        ("anthropic", "https://api.anthropic.com/v1/messages"),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta/"),
    ],
)
def test_a_base_url_that_cannot_work_or_holds_a_secret_is_refused(admin, kind, url):
    with pytest.raises(UsageError):
        admin.providers.add("p", kind=kind, base_url=url, api_key_env="K")


def test_a_trailing_slash_is_taken_off_and_an_odd_base_url_gets_a_hint(admin):
    good = admin.providers.add("a", kind="openai", base_url="https://host/v1/", api_key_env="K")
    assert (good.base_url, good.hints) == ("https://host/v1", ())
    odd = admin.providers.add("b", kind="openai", base_url="http://host.test/x", api_key_env="K")
    assert len(odd.hints) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"api_key_env": "sk-proj-abcdefghijklmnop"},
        {"api_key_env": "K", "headers": ["Authorization=Bearer abcdefghijklmnopqrstuvwx"]},
        {"api_key_env": "K", "headers": ["X-Team-Token=abc"]},
        {"api_key_env": "K", "headers": ["X-Note=sk-live-abcdefghijklmnop"]},
        {"api_key_env": "K", "proxy": "http://me:secret@proxy:3128"},
    ],
)
def test_what_looks_like_a_secret_is_refused_and_stored_nowhere(admin, options):
    with pytest.raises(Refused):
        admin.providers.add("p", kind="openai", **options)
    assert "p" not in {p.name for p in admin.providers.list()}


def test_a_header_may_name_the_variable_its_secret_is_in(admin):
    p = admin.providers.add(
        "p", kind="openai", api_key_env="K", headers=["X-Token=env:TEAM", "X-App=shop"]
    )
    assert p.headers == {"x-token": "env:TEAM", "x-app": "shop"}


def test_a_model_without_a_price_is_never_enabled_and_never_in_the_catalog(admin):
    model = admin.models.add("acme/free-lunch", mode="chat", provider="openai", upstream="x")
    assert (model.enabled, model.available) == (False, False)
    with pytest.raises(Refused, match="no price"):
        admin.models.enable("acme/free-lunch")
    with admin.desk.database.read() as tx:
        assert "acme/free-lunch" not in read_catalog(tx, NOW).models
    with pytest.raises(Refused, match="keeps a price"):
        admin.models.set("openai/gpt-5.4", prices={"input": "none", "output": "none"})


@pytest.mark.parametrize("price", ["-1", "1e3", "NaN", "3.0000001", "1,5", "", "٣"])
def test_a_price_is_an_exact_decimal_or_refused(admin, price):
    with pytest.raises(UsageError):
        admin.models.set("openai/gpt-5.4", prices={"input": price})


def test_a_change_of_price_is_a_new_version_and_old_receipts_explain_themselves(admin):
    admin.users.add("ann@shop.test")
    requests = Requests(admin, "ann@shop.test")
    request_id = requests.charge(tokens=1000, output=100)
    admin.models.set("openai/gpt-5.4", prices={"input": "100"})
    receipt = admin.requests.show(request_id)
    assert receipt.recomputed == receipt.request.charge == 400_000_000
    assert receipt.price_version.prices["input"] == "2.5"
    assert [(s.bucket, s.count, s.credits) for s in receipt.arithmetic] == [
        ("input", 1000, "250"),
        ("output", 100, "150"),
    ]
    assert len(admin.models.price_history("openai/gpt-5.4")) == 2
    assert admin.ledger.verify().ok
    assert Usage(input=1).total_input == 1


def test_a_price_from_a_day_is_scheduled_and_the_past_is_refused(admin):
    model = admin.models.set("openai/gpt-5.4", prices={"input": "7"}, start="2026-12-24")
    assert model.prices["input"] == "2.5"
    assert [to_json(p)["effective_at"] for p in model.scheduled] == ["2026-12-24T00:00:00Z"]
    with pytest.raises(UsageError, match="future"):
        admin.models.set("openai/gpt-5.4", prices={"input": "7"}, start="2026-11-22")


def test_a_price_holds_at_once_even_after_the_clock_went_back(admin):
    admin.desk.clock = lambda: NOW - 3600
    admin.models.set("openai/gpt-5.4", prices={"input": "7"})
    with admin.desk.database.read() as tx:
        assert read_catalog(tx, NOW).models["openai/gpt-5.4"].prices.input == 7_000_000


def prices_on(admin, slug, *days):
    """What a model costs on some days, as a server reads it."""
    with admin.desk.database.read() as tx:
        return [read_catalog(tx, parse_day(day)).models[slug].prices.display() for day in days]


def test_a_scheduled_price_changes_on_its_day_only_what_it_was_given(admin):
    slug, prices = "acme/large", {"input": "99", "output": "99", "cached_input": "9"}
    admin.models.add(slug, mode="chat", provider="openai", prices=prices)
    admin.models.set(slug, prices={"input": "3"}, start="2027-01-01")
    admin.models.set(slug, prices={"cached_input": "none"}, start="2027-03-01")
    model = admin.models.set(slug, prices={"output": "20"})
    assert model.prices == {"input": "99", "output": "20", "cache_read": "9"}
    assert [dict(version.prices) for version in model.scheduled] == [
        {"input": "3", "output": "20", "cache_read": "9"},
        {"input": "3", "output": "20"},
    ]
    admin.models.set(slug, prices={"output": "21"}, start="2027-02-01")
    assert prices_on(admin, slug, "2027-01-01", "2027-02-01", "2027-03-01") == [
        {"input": "3", "output": "20", "cache_read": "9"},
        {"input": "3", "output": "21", "cache_read": "9"},
        {"input": "3", "output": "21"},
    ]
    told = [row.after.get("carried_into") for row in admin.audit.list(act="models.set")]
    assert told[:2] == [["2027-03-01"], ["2027-01-01", "2027-03-01"]]


def test_a_scheduled_price_stays_although_the_price_was_the_same_for_a_while(admin):
    slug, prices = "acme/large", {"input": "3", "output": "9"}
    admin.models.add(slug, mode="chat", provider="openai", prices=prices)
    admin.models.set(slug, prices={"input": "5"}, start="2027-01-01")
    admin.models.set(slug, prices={"input": "5"})  # the day was forgotten
    admin.models.set(slug, prices={"input": "3"})
    admin.models.set(slug, prices={"output": "10"})
    assert prices_on(admin, slug, "2027-01-01") == [{"input": "5", "output": "10"}]


def test_a_long_step_that_ends_now_still_begins_on_its_day(admin):
    slug = "openai/gpt-5.4"
    longs = ("long_input", "long_output", "long_cached_input")
    admin.models.set(slug, prices={"long_input": "6"}, start="2027-01-01")
    admin.models.set(slug, prices={"long_context": 0} | dict.fromkeys(longs, "none"))
    (then,) = prices_on(admin, slug, "2027-01-01")
    assert then["long_context"] == 272_000
    assert then["long_input"] == "6"
    assert "long_output" not in then


def test_no_change_leaves_a_model_without_a_price_on_a_day_to_come(admin):
    slug, prices = "acme/large", {"input": "1", "output": "2"}
    admin.models.add(slug, mode="chat", provider="openai", prices=prices)
    admin.models.set(slug, prices={"input": "none"}, start="2027-01-01")
    with pytest.raises(Refused, match="2027-01-01"):
        admin.models.set(slug, prices={"output": "none"})
    assert prices_on(admin, slug, "2026-12-31", "2027-01-01") == [
        {"input": "1", "output": "2"},
        {"output": "2"},
    ]


def test_a_change_after_the_clock_went_back_undoes_no_earlier_one(admin):
    admin.models.set("openai/gpt-5.4", prices={"input": "7"})
    admin.desk.clock = lambda: NOW - 3600
    admin.models.set("openai/gpt-5.4", prices={"output": "70"})
    with admin.desk.database.read() as tx:
        prices = read_catalog(tx, NOW).models["openai/gpt-5.4"].prices.display()
    assert (prices["input"], prices["output"]) == ("7", "70")


def test_routes_are_tried_in_order_and_provider_replaces_them_all(admin):
    model = admin.models.route_add("openai/gpt-5.4", "anthropic:x", cost=["input=1", "output=2"])
    assert [(r.provider, r.priority) for r in model.routes] == [("openai", 0), ("anthropic", 1)]
    with pytest.raises(Refused, match="already"):
        admin.models.route_add("openai/gpt-5.4", "anthropic:x")
    model = admin.models.set("openai/gpt-5.4", provider="gemini", upstream="y")
    assert [(r.provider, r.upstream) for r in model.routes] == [("gemini", "y")]
    admin.providers.remove("gemini")
    assert "route" in admin.models.show("openai/gpt-5.4").why_not


OPENROUTER = {
    "data": [
        {"id": "openai/gpt-5.4", "pricing": {"prompt": "0.000003", "completion": "0.000015"}},
        {
            "id": "x/new",
            "name": "New",
            "context_length": 1000,
            "pricing": {
                "prompt": "0.0000001",
                "completion": "2e-7",
                "input_cache_read": "0.00000001",
            },
            "top_provider": {"max_completion_tokens": 500},
        },
        {"id": "z/auto", "pricing": {"prompt": "-1", "completion": "-1"}},
        {"id": "bad", "pricing": {"prompt": "NaN"}},
        "junk",
    ]
}
LITELLM = {
    "sample_spec": {"litellm_provider": "x"},
    "gpt-5.4": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 0.0000025,
        "output_cost_per_token": 1.6e-05,
        "input_cost_per_token_above_272k_tokens": 5e-06,
        "output_cost_per_token_above_272k_tokens": 2.25e-05,
        "cache_read_input_token_cost": 2.5e-07,
    },
    "tts": {"litellm_provider": "openai", "mode": "audio_speech", "input_cost_per_token": 1},
}


def test_an_openrouter_list_is_compared_exactly_and_applied_once(admin):
    data = json.dumps(OPENROUTER).encode()
    plan = importer.plan(admin, data, provider="openai")
    assert [(c.act, c.slug) for c in plan.changes] == [
        ("price", "openai/gpt-5.4"),
        ("add", "x/new"),
    ]
    assert plan.skipped == 3
    assert admin.models.show("openai/gpt-5.4").prices["input"] == "2.5"
    importer.apply(admin, plan)
    assert admin.models.show("openai/gpt-5.4").prices["input"] == "3"
    new = admin.models.show("x/new")
    assert new.prices == {"input": "0.1", "output": "0.2", "cache_read": "0.01"}
    assert (new.context_length, new.max_output, new.tier) == (1000, 500, "pro")
    assert len(admin.models.price_history("openai/gpt-5.4")) == 2
    assert not importer.plan(admin, data, provider="openai").changes


def test_a_listed_name_with_control_characters_is_taken_without_them(admin):
    name = "\x1b[2JOWNED\x1b]0;PWNED\x07"
    row = {"id": "x/1", "name": name, "pricing": {"prompt": "1", "completion": "1"}}
    data = json.dumps({"data": [row]}).encode()
    importer.apply(admin, importer.plan(admin, data, provider="openai"))
    assert admin.models.show("x/1").name == "\ufffd[2JOWNED\ufffd]0;PWNED\ufffd"


def test_a_litellm_map_finds_our_models_by_their_upstream_id(admin):
    plan = importer.plan(admin, json.dumps(LITELLM).encode(), add_new=False)
    assert [(c.slug, c.before, c.after) for c in plan.changes] == [
        ("openai/gpt-5.4", {"output": "15"}, {"output": "16"})
    ]


def test_two_models_of_one_upstream_id_are_both_compared(admin):
    prices = {"input": "9", "output": "16"}
    admin.models.add("shop/best", mode="chat", provider="openai", upstream="gpt-5.4", prices=prices)
    plan = importer.plan(admin, json.dumps(LITELLM).encode())
    assert {c.slug: c.after.get("output") for c in plan.changes} == {
        "openai/gpt-5.4": "16",
        "shop/best": None,
    }
    importer.apply(admin, plan)
    assert admin.models.show("shop/best").prices["input"] == "2.5"


def vertex(**rows):
    """A LiteLLM map of such models, each at a dollar per million tokens."""
    costs = {"litellm_provider": "vertex", "mode": "chat", "input_cost_per_token": "0.000001"}
    return json.dumps({name: costs | row for name, row in rows.items()}).encode()


def test_what_cannot_be_imported_is_told_with_its_reason_and_the_rest_is_applied(admin):
    fine, odd = "vertex_ai/claude-3-haiku", "vertex_ai/claude-3-5-sonnet@20240620"
    steps = {"input_cost_per_token_above_999999999k_tokens": 1e-6}
    names = {fine: {}, odd: {}, "x": {}, "zlast": steps, "a\ud800": {}}
    admin.models.add("gemini/x", mode="chat", provider="openai", upstream="y")
    plan = importer.plan(admin, vertex(**names), provider="gemini")
    assert [c.slug for c in plan.changes] == [fine, "gemini/zlast"]
    told = {c.slug: (c.act, c.note) for c in plan.refused}
    assert told.keys() == {odd, "gemini/x", "gemini/a\ufffd"}
    assert {act for act, _ in told.values()} == {"skip"}
    assert "is no slug" in told[odd][1]
    assert "routed elsewhere" in told["gemini/x"][1]
    assert plan.skipped == 3
    assert importer.apply(admin, plan).applied
    assert admin.models.show(fine).prices == {"input": "1"}
    assert [row.target for row in admin.audit.list(act="models.add")][:2] == [
        "model:gemini/zlast",
        f"model:{fine}",
    ]


def test_of_two_that_are_one_model_the_first_counts(admin):
    first, second = {"prompt": "0.000001"}, {"prompt": "0.000002"}
    rows = [{"id": n, "pricing": p} for n in ("x/new", "openai/gpt-5.4") for p in (first, second)]
    plan = importer.plan(admin, json.dumps({"data": rows}).encode(), provider="openai")
    assert [c.note for c in plan.refused] == ["listed before: that one counts"] * 2
    importer.apply(admin, plan)
    for slug in ("x/new", "openai/gpt-5.4"):
        assert admin.models.show(slug).prices["input"] == "1"


def test_an_import_that_fails_in_its_middle_changes_nothing(admin):
    data = vertex(**{"v/a": {}, "v/b": {}, "gpt-5.4": {}})
    plan = importer.plan(admin, data, provider="openai")
    assert [c.act for c in plan.changes] == ["add", "add", "price"]
    admin.models.add("v/b", mode="chat")
    before = (admin.models.list(), admin.audit.list())
    with pytest.raises(Refused, match="v/b already"):
        importer.apply(admin, plan)
    assert (admin.models.list(), admin.audit.list()) == before


@pytest.mark.parametrize(
    "row",
    [
        {"pricing": {"prompt": "1e999999999"}},
        {"pricing": {"prompt": "1", "completion": "1e-99999999999999999999"}},
        {"pricing": {"prompt": "1"}, "architecture": {"output_modalities": 5}},
    ],
)
def test_no_number_and_no_shape_in_a_price_list_is_a_traceback(admin, row):
    data = json.dumps({"data": [{"id": "x/y", **row}]}).encode()
    importer.apply(admin, importer.plan(admin, data, provider="openai"))
    number = b'{"data": [{"id": "x", "pricing": {"prompt": 1e99999999999999999999}}]}'
    with pytest.raises(UsageError):
        importer.plan(admin, number)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"{", b"\xff\xfe", b'{"data": 1}', b"[" * 99999]
)
def test_a_file_that_is_no_price_list_is_refused_in_words(admin, data):
    with pytest.raises(UsageError):
        importer.plan(admin, data)


def test_availability_is_what_the_running_server_last_wrote(admin):
    admin.desk.clock = time.time
    instance = Instance(admin.desk.database)
    instance.register()
    said = [{"name": "openai", "usable": False}, {"name": "gemini", "usable": True}]
    with admin.desk.database.transaction() as tx:
        flush_stats(tx, instance.id, {"providers": said}, {}, {})
    seen = {p.name: p.available for p in admin.providers.list()}
    assert seen == {"openai": False, "gemini": True, "anthropic": False}
    instance.unregister()
    seen = {p.name: p.available for p in admin.providers.list()}
    assert seen == {"openai": True, "gemini": False, "anthropic": False}


def test_what_the_running_server_saw_of_routes_is_told_of_their_provider(admin):
    admin.desk.clock = time.time
    instance = Instance(admin.desk.database)
    instance.register()
    well = {"cooling_s": 0, "latency_ms": 80.5, "in_flight": 2, "key_refused": False}
    resting = {**well, "cooling_s": 12, "latency_ms": None, "last_failure": "timeout"}

    def told(*routes):
        status = {"providers": [{"name": "openai", "usable": True}], "routes": list(routes)}
        with admin.desk.database.transaction() as tx:
            flush_stats(tx, instance.id, status, {}, {})
        return admin.providers.show("openai")

    assert told().state == "ready"
    fine = told({"route": "openai:a", **well}, {"route": "gemini:a", **resting})
    assert (fine.state, fine.latency_ms, fine.in_flight, fine.cooling_s) == ("ready", 80.5, 2, 0)
    one = told({"route": "openai:a", **well}, {"route": "openai:b", **resting})
    assert one.state == "cooling down on 1 of 2 routes, 12 s left: timeout"
    assert (one.available, one.cooling_s) == (True, 12)
    assert told({"route": "openai:b", **resting}).state == "cooling down, 12 s left: timeout"
    check = next(c for c in admin.doctor() if c.name == "provider openai")
    assert (check.ok, "providers test openai" in check.mend) == (False, True)
    refused = told({"route": "openai:a", **well, "key_refused": True})
    assert (refused.state, refused.key_refused) == ("the provider refuses our key", True)
    check = next(c for c in admin.doctor() if c.name == "provider openai")
    assert (check.ok, "into OPENAI_API_KEY" in check.mend) == (False, True)
    instance.unregister()


def test_a_provider_that_the_server_cannot_set_up_is_told_with_its_mend(admin):
    admin.desk.clock = time.time
    instance = Instance(admin.desk.database)
    instance.register()
    said = [{"name": "openai", "usable": False, "broken": True}]
    with admin.desk.database.transaction() as tx:
        flush_stats(tx, instance.id, {"providers": said}, {}, {})
    seen = admin.providers.show("openai")
    assert (seen.available, seen.broken) == (False, True)
    check = next(c for c in admin.doctor() if c.name == "provider openai")
    assert (check.ok, "providers show openai" in check.mend, "export" in check.mend) == (
        False,
        True,
        False,
    )
    instance.unregister()


async def test_a_provider_is_tested_by_one_cheap_real_call(admin, monkeypatch):
    monkeypatch.setenv("FAKE_KEY", "sk-proj-fake")
    admin.desk.env = {"FAKE_KEY": "sk-proj-fake"}
    async with FakeOpenAI() as fake:
        admin.providers.add("fake", kind="openai", base_url=fake.url, api_key_env="FAKE_KEY")
        good = await asyncio.to_thread(admin.providers.test, "fake")
        assert (good.ok, good.model, fake.problems) == (True, "gpt-5.4-nano", [])
        fake.script("/chat/completions", lambda _: error_reply(401, "bad key sk-proj-fake"))
        bad = await asyncio.to_thread(admin.providers.test, "fake")
        assert not bad.ok
        assert "key" in bad.message
        assert "sk-proj-fake" not in bad.message
        monkeypatch.setenv("FAKE_KEY", "plain-word-key")
        fake.script("/chat/completions", lambda _: error_reply(400, "odd for plain-word-key"))
        odd = await asyncio.to_thread(admin.providers.test, "fake")
        assert "odd for" in odd.message
        assert "plain-word-key" not in odd.message
    gone = await asyncio.to_thread(admin.providers.test, "fake")
    assert not gone.ok
    assert gone.message.startswith("connect")


def test_a_provider_is_tested_by_the_engine_that_serves(admin):
    """Over an https:// proxy only one of them goes: the other sends nothing at all."""

    def reason():
        return admin.providers.test("openai").message.partition(":")[0]

    admin.desk.clock = time.time
    admin.providers.set("openai", proxy="https://127.0.0.1:1")
    assert reason() == "every call over its proxy is refused"
    admin.desk.env |= {"SELLAPI_ENGINE": "httpx"}
    assert reason() == "connect"
    instance = Instance(admin.desk.database)
    instance.register()
    with admin.desk.database.transaction() as tx:
        flush_stats(tx, instance.id, {"engine": "asyncio"}, {}, {})
    assert reason() == "every call over its proxy is refused"
    instance.unregister()


@pytest.mark.parametrize("proxy", ["proxy:3128", "http://", "http://[proxy", "http://proxy:99999"])
def test_a_proxy_that_is_no_url_is_refused_in_words(admin, proxy):
    with pytest.raises(UsageError, match="--proxy wants a URL"):
        admin.providers.set("openai", proxy=proxy)


@pytest.mark.parametrize(
    ("proxy", "engine", "wants"),
    [
        ("http://proxy.test:3128", "asyncio", None),
        ("https://proxy.test", "asyncio", "SELLAPI_ENGINE=httpx"),
        ("https://proxy.test", "httpx", None),
        ("socks5://proxy.test", "asyncio", "SELLAPI_ENGINE=httpx"),
    ],
)
def test_a_proxy_that_wants_the_other_engine_is_told_with_it(admin, proxy, engine, wants):
    admin.desk.env |= {"SELLAPI_ENGINE": engine}
    options = {"kind": "openai", "api_key_env": "K", "proxy": proxy}
    for told in (admin.providers.add("p", **options), admin.providers.set("openai", proxy=proxy)):
        said = " ".join((told.state, *told.hints))
        assert said.count("every call") == bool(wants)
        assert (wants or "") in said
        assert (told.proxy_wants or "").startswith(wants or "")
    seen = admin.providers.show("openai")
    assert (seen.state == "ready") == (wants is None)
    check = next(c for c in admin.doctor() if c.name == "provider openai")
    assert (check.ok, (wants or "") in check.mend) == (wants is None, True)
    assert admin.providers.set("openai", proxy="none").hints == ()


def test_a_socks_proxy_wants_its_package_too(admin, monkeypatch):
    for installed, wants in ((None, "the package httpx[socks]"), (object(), None)):
        monkeypatch.setattr("sellapi.upstream.engines.find_spec", lambda _, it=installed: it)
        assert engines.wanted_for_proxy("httpx", "socks5://proxy.test") == wants
