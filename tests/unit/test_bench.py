"""The pure parts of the bench: what it counts, what it judges, what it prints."""

from __future__ import annotations

import json
from operator import sub, truediv

import pytest

from bench import __main__ as bench
from bench import against, payloads, report
from bench.grow import GrowthPlan, secret_of
from bench.load import Target, parse_wrk, wrk_script
from bench.machine import Load, parse_stat
from bench.nginx import upstream_conf
from bench.report import Sample, Table, Value, judge, percentile, replace_block
from bench.soak import growth_mb
from bench.targets import checks
from sellapi.domain.keys import looks_like_a_key


def table(*samples):
    made = Table()
    for scenario, subject, turn, figures, quiet in samples:
        made.add(Sample(scenario, subject, turn, figures, quiet))
    return made


def test_percentiles_are_values_that_were_measured():
    """Nearest rank: of a hundred values the 99th, of one that one, of none zero."""
    values = [float(v) for v in range(100, 0, -1)]
    assert [percentile(values, s) for s in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 1) == 7
    assert percentile([], 50) == 0


def test_a_median_leaves_disturbed_rounds_out():
    """Two quiet rounds of three decide; the wild third is not among them."""
    made = table(
        ("plain", "a", 0, {"per_s": 100}, True),
        ("plain", "a", 1, {"per_s": 9}, False),
        ("plain", "a", 2, {"per_s": 110}, True),
    )
    assert made.median("plain", "a", "per_s") == Value(105, quiet=True, rounds=2)


def test_a_mostly_busy_machine_is_not_judged():
    """With two of three rounds disturbed the verdict is neither pass nor fail."""
    made = table(*[("plain", "a", n, {"per_s": 100}, n == 0) for n in range(3)])
    value = made.median("plain", "a", "per_s")
    assert judge("rate", value, ">=", 1).verdict == report.BUSY
    assert judge("rate", value, ">=", 1_000).verdict == report.BUSY


def test_a_change_is_told_by_the_ratios_of_its_rounds():
    """What was not measured is left out; a disturbed run is no judgement."""
    figures = {"per_s": 100, "cpu_us": 200, "p99_ms": 10}
    faster = {"per_s": 110, "cpu_us": 180, "p99_ms": 8}
    made = table(
        *[("plain", "before", n, figures, True) for n in range(3)],
        *[("plain", "sellapi", n, faster, True) for n in range(3)],
    )
    (line,) = against.verdicts(made, ("plain", "burst"))
    assert line.split() == ["plain", "per_s", "x1.100", "cpu_us", "x0.900", "p99_ms", "x0.800"]
    disturbed = table(*[(s.scenario, s.subject, s.round, s.figures, False) for s in made.samples])
    assert report.BUSY in against.verdicts(disturbed, ("plain",))[0]


def test_ratios_are_taken_inside_a_round():
    """A machine that halves its pace changes both sides, not the ratio."""
    made = table(
        ("plain", "a", 0, {"per_s": 20}, True),
        ("plain", "b", 0, {"per_s": 100}, True),
        ("plain", "a", 1, {"per_s": 10}, True),
        ("plain", "b", 1, {"per_s": 50}, True),
        ("plain", "a", 2, {"per_s": 99}, True),
    )
    ratio = made.paired(("plain", "a", "per_s"), ("plain", "b", "per_s"), truediv)
    assert ratio == Value(0.2, quiet=True, rounds=2)
    assert made.paired(("plain", "a", "per_s"), ("plain", "none", "per_s"), sub) is None


@pytest.mark.parametrize(
    ("sense", "value", "verdict"),
    [(">=", 2.0, "pass"), (">=", 1.9, "fail"), ("<=", 2.0, "pass"), ("<=", 2.1, "fail")],
)
def test_a_target_is_met_at_its_very_figure(sense, value, verdict):
    """The bound itself passes, whichever way it is meant."""
    assert judge("x", Value(value, True, 1), sense, 2).verdict == verdict


def test_every_target_is_listed_also_when_nothing_was_measured():
    """An empty run says "not measured" for each instead of leaving it out."""
    found = checks(Table())
    assert len(found) > 20
    assert {c.verdict for c in found} == {"not measured"}


def test_a_machine_is_quiet_until_others_take_a_part_of_a_core():
    """A tenth of a core is background, a fifth is somebody at work; stolen time counts sooner."""
    assert Load(4, ours=1.9, others=0.1, steal=0.0).quiet
    assert not Load(4, ours=1.5, others=0.2, steal=0.0).quiet
    assert not Load(4, ours=1.9, others=0.0, steal=0.1).quiet


def test_processor_time_is_read_without_idle_and_guests():
    """Of /proc/stat's first line: user, nice, system, irq, softirq; and steal apart."""
    assert parse_stat("cpu  100 10 50 9000 700 5 6 8 1 1") == (171, 8)


def test_wrk_is_read_by_its_own_line():
    """The script's line is found among wrk's words; without it the words are the error."""
    line = {"requests": 500, "us": 2_000_000, "bytes": 9, "errors": 1, "p50": 1500, "p99": 9000}
    found = parse_wrk("Running 2s test\nBENCH " + json.dumps(line | {"max": 9900}) + "\n")
    assert (found.rps, found.p50_ms, found.p99_ms, found.max_ms) == (250, 1.5, 9, 9.9)
    with pytest.raises(RuntimeError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1")


def test_wrk_sends_every_key_in_turn(tmp_path):
    """Keys and further headers stand in the script as Lua strings."""
    script = wrk_script(Target(1, "/", b"", ("k1", "k2"), (("X-A", "b"),)), tmp_path / "body")
    assert 'local keys = {"k1","k2"}' in script
    assert '["X-A"]="b"' in script


@pytest.mark.parametrize(
    "events",
    [payloads.openai_events(), payloads.anthropic_events(), payloads.gemini_events()],
    ids=["openai", "anthropic", "gemini"],
)
def test_streams_have_the_events_they_are_counted_by(events):
    """Bytes are turned into events by this number, whoever the provider is."""
    assert len(events) == payloads.EVENTS
    assert all(event.endswith((b"\n\n", b"\r\n\r\n")) for event in events)


def test_a_big_body_has_the_size_it_says():
    """10 MB are within a thousandth of 10 MB, and JSON."""
    body = payloads.big_body("bench/plain", 1_000_000)
    assert abs(len(body) - 1_000_000) < 1_000
    assert len(json.loads(body)["messages"][0]["content"]) == 5


def test_no_word_of_the_nginx_configuration_is_too_long_for_it(tmp_path):
    """nginx refuses a word of 4,096 bytes; long bodies are put together from several."""
    quoted = upstream_conf(tmp_path, 1).split("'")[1::2]
    assert max(map(len, quoted)) < 4_096
    assert sum("chat.completion.chunk" in word for word in quoted) > 1


def test_the_table_is_replaced_between_its_marks_only():
    """Everything around stays; a document without marks is left alone with an error."""
    text = "a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n<!-- growth:begin --><!-- growth:end -->"
    changed = replace_block(text, "new\n")
    assert changed.startswith("a\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nb\n")
    assert replace_block(changed, "g", "growth").count("new") == 1
    with pytest.raises(ValueError, match="missing"):
        replace_block("nothing", "new")


def test_a_result_is_rendered_from_what_its_file_holds():
    """Through JSON and back: targets, subjects and figures stand in the Markdown."""
    made = table(("plain", "sellapi", 0, {"per_s": 8123.4}, True))
    about = {"date": "d", "commit": "c", "dirty": False, "versions": {"nginx": "1"}}
    about["machine"] = {"cpu": "x", "cores": 2, "memory_gb": 4, "kernel": "6"}
    packed = report.pack(made, checks(made), about, {"rounds": 1, "seconds": 2})
    text = report.render(json.loads(json.dumps(packed)))
    assert "| sellapi | 8,123 |" in text
    assert "plain: share of bare Sanic" in text


def test_growth_counts_every_request_once():
    """The days of a plan add up to its requests, also when they do not divide."""
    plan = GrowthPlan(users=10, requests=1_003, last_day=20_000)
    days = range(plan.first_day, plan.last_day + 1)
    assert sum(plan.of_day(day) for day in days) == 1_003
    assert len(days) == 365


def test_grown_keys_are_keys():
    """Their secrets have the shape the gateway asks for, and no two are the same."""
    assert looks_like_a_key(secret_of(5))
    assert secret_of(5) != secret_of(6)


def test_memory_is_flat_when_only_the_start_took_some():
    """A leak of a megabyte a turn shows, warming up does not."""
    assert growth_mb([40, *[90.0] * 39]) == 0
    assert growth_mb([90.0 + n for n in range(40)]) > 25


def test_quick_finds_the_last_whole_bench_among_all_results():
    """Those of growth and soak lie in the same folder; the soak's name sorts behind all others."""
    latest = bench._latest()
    assert latest is not None
    assert latest["name"].startswith("20")
    assert bench._share(latest, "plain") > 0
