"""Other gateways in the same run, for ``--with-peers``: LiteLLM and Portkey.

Each is installed once into a folder of its own below bench/.peers, from PyPI and npm, and runs with
one worker on the subjects' core as its documentation says, without a database: they do not bill.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.processes import free_port
from bench.shop import JOBS, Job
from bench.stage import Stage, Subject

__all__ = ["add_peers"]

FOLDER = Path(__file__).resolve().parent / ".peers"
_JOBS = ("plain", "burst", "paced-5ms")

_LITELLM_REST = (
    "litellm_settings:",
    "  telemetry: false",
    "general_settings:",  # without a master key it does not start
    "  master_key: sk-bench-master",
)


def add_peers(stage: Stage) -> list[str]:
    """Start what can be installed here; returns a sentence for each that cannot."""
    missed = []
    for add in (_add_litellm, _add_portkey):
        try:
            add(stage)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            missed.append(f"{add.__name__.removeprefix('_add_')} is not measured: {error}")
    return missed


def _upstream(stage: Stage, job: Job) -> str:
    port = stage.paced_port if job.paced else stage.static_port
    return f"http://127.0.0.1:{port}{job.base}"


def _add_litellm(stage: Stage) -> None:
    venv = FOLDER / "litellm"
    program = venv / "bin" / "litellm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "litellm[proxy]"]
        subprocess.run(pip, check=True, timeout=900)
    lines = ["model_list:"]
    for name in _JOBS:
        job = JOBS[name]
        lines += [f"- model_name: {job.model}", "  litellm_params:"]
        lines += [f"    model: openai/{job.upstream}", f"    api_base: {_upstream(stage, job)}"]
        lines += ["    api_key: sk-bench"]
    config = stage.folder / "litellm.yaml"
    config.write_text("\n".join([*lines, *_LITELLM_REST, ""]))
    port = free_port()
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    process = stage.start("litellm", command, port, stage.cores.subject, timeout_s=90)
    paths = dict.fromkeys(_JOBS, "/v1/chat/completions")
    headers = dict.fromkeys(_JOBS, (("Authorization", "Bearer sk-bench-master"),))
    stage.subjects["litellm"] = Subject("litellm", port, process, paths=paths, headers=headers)


def _add_portkey(stage: Stage) -> None:
    folder = FOLDER / "portkey"
    server = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not server.exists():
        if shutil.which("npm") is None:
            raise RuntimeError("it needs node and npm")
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--prefix", str(folder), "@portkey-ai/gateway"]
        subprocess.run(install, check=True, timeout=900)
    port = free_port()
    command = ["node", str(server), "--headless", f"--port={port}"]
    process = stage.start("portkey", command, port, stage.cores.subject, timeout_s=60)
    headers = {
        name: (
            ("Authorization", "Bearer sk-bench"),
            ("x-portkey-provider", "openai"),
            ("x-portkey-custom-host", _upstream(stage, JOBS[name])),
        )
        for name in _JOBS
    }
    paths = dict.fromkeys(_JOBS, "/v1/chat/completions")
    stage.subjects["portkey"] = Subject("portkey", port, process, paths=paths, headers=headers)
