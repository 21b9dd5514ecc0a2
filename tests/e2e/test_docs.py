"""README and docs: every command and flag they name exists, what can be pasted works."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cli
from sellapi.settings import PREFIX, Settings
from tests.support.process import ROOT, Served, clean_env, serve
from tests.support.tools import NODE_MODULES, missing, need, need_node

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
KEY_SHOWN, ORIGIN_SHOWN = "sk-sellapi-...", "http://127.0.0.1:8000"


def fences(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    text = page.read_text("utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def command_lines(page: Path) -> list[str]:
    """What a reader would type: shell blocks, and commands quoted in the text."""
    text = page.read_text("utf-8")
    lines = [
        line.removeprefix("$ ").partition("  #")[0].strip()
        for body in fences(page, "sh", "console")
        for line in body.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`((?:sellapi|make) [^`]+)`", text)
    return [line for line in lines if line]


def sellapi_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for line in command_lines(page):
            match = re.match(r"(?:sudo -u \w+ )?(?:\S*/)?sellapi(?:\.pyz)? ([a-z].*)$", line)
            if match:
                found.append((page.name, match[1]))
    return found


def walk(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and the rest of them."""
    context = click.Context(cli.cli, info_name="sellapi")
    command: click.Command = cli.cli
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]!r} in `{command.name}`"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize(("page", "line"), sellapi_lines())
def test_a_command_named_in_the_docs_exists_with_its_flags(page: str, line: str):
    command, rest = walk(shlex.split(line))
    flags = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    assert [w for w in rest if w.startswith("--") and w.partition("=")[0] not in flags] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_shown_in_a_block_is_complete(page: Path):
    for line in [li for body in fences(page, "sh") for li in body.splitlines()]:
        shown = line.partition("  #")[0].strip()
        if not shown.startswith("sellapi "):
            continue
        command, rest = walk(shlex.split(shown)[1:])
        # Parsing checks that every argument is there and every value is of its type.
        command.make_context(command.name, rest, resilient_parsing=False).close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_make_target_named_in_the_docs_exists(page: Path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in command_lines(page):
        if line.startswith("make "):
            named = {word for word in shlex.split(line)[1:] if "=" not in word}
            assert named <= targets, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_setting_named_in_the_docs_exists(page: Path):
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", page.read_text("utf-8")))
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_every_setting_has_a_row_in_one_of_the_two_tables():
    """Getting started has the table; what bounds clients stands with what it is for."""
    text = "".join(
        (ROOT / "docs" / f"{page}.md").read_text("utf-8")
        for page in ("getting-started", "reliability")
    )
    rows = re.findall(rf"^\| `(?:{PREFIX}([A-Z_]+)|([a-z_]+))` \|", text, re.MULTILINE)
    assert sorted(upper.lower() or lower for upper, lower in rows) == sorted(Settings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_linked_or_named_in_the_docs_exists(page: Path):
    text = page.read_text("utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [name for name in linked if not (page.parent / name).exists()] == []
    named = re.findall(r"`((?:sellapi|tests|tools|docs|tui)/[\w/.-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("demo")
    with serve("--demo", cwd=folder, env=clean_env(folder)) as served:
        yield served


def filled(text: str, demo: Served) -> str:
    """A block as a reader pastes it, with the key and the port of this demo."""
    return text.replace(KEY_SHOWN, demo.key).replace(ORIGIN_SHOWN, demo.url.removesuffix("/v1"))


def test_the_curl_line_of_the_readme_streams_an_answer_and_says_what_it_cost(demo: Served):
    (line,) = [b for b in fences(ROOT / "README.md", "sh") if b.startswith("curl")]
    need("curl")
    done = subprocess.run(
        ["bash", "-c", filled(line, demo)], capture_output=True, text=True, timeout=30, check=False
    )
    told = json.loads(done.stdout.partition(": sellapi ")[2].partition("\n")[0])
    (shown,) = [b for b in fences(ROOT / "README.md", "text") if b.startswith(": sellapi")]
    promised = json.loads(shown.removeprefix(": sellapi ").partition("\n")[0])
    assert told.keys() == promised.keys()
    assert told["credits_charged"] == promised["credits_charged"]


def test_the_python_of_the_readme_prints_an_answer(demo: Served):
    (snippet,) = fences(ROOT / "README.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", filled(snippet, demo)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Write a haiku" in done.stdout, done.stderr


def test_the_javascript_of_the_readme_prints_an_answer(demo: Served):
    (snippet,) = fences(ROOT / "README.md", "js")
    node = need_node()
    if not (NODE_MODULES / "openai-7").exists():
        missing("the openai package of tests/node")
    done = subprocess.run(
        [node, "--input-type=module"],
        input=filled(snippet, demo).replace("from 'openai'", "from 'openai-7'"),
        cwd=ROOT / "tests" / "node",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Write a haiku" in done.stdout, done.stderr


def test_the_readmes_shop_opens_as_written(tmp_path: Path):
    """Every sellapi line of its shell blocks in order, the servers aside."""
    lines = [
        line.partition("  #")[0].strip()
        for body in fences(ROOT / "README.md", "sh")
        for line in body.splitlines()
    ]
    acts = [line for line in lines if line.startswith("sellapi ") and line != "sellapi serve"]
    assert len(acts) >= 7
    env = clean_env(tmp_path, OPENAI_API_KEY="sk-none")
    for act in acts:
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *shlex.split(act)[1:]],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (act, done.stderr)
