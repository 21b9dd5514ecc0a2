"""Everything that runs during a bench: stand-ins, subjects, a temporary folder; and its end."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import nginx
from bench.load import Target
from bench.machine import ROOT, Cores, Watch
from bench.payloads import chat_body
from bench.processes import Process, free_port, wait_for
from bench.shop import KEY_ENV, Job, stock

__all__ = ["Stage", "Subject", "open_stage", "serve_command", "serve_env"]

_PYTHON = sys.executable


@dataclass(frozen=True)
class Subject:
    """What is measured. ``process`` is None for the stand-ins themselves (``direct``).

    ``ours`` subjects speak our API and want a key; of others ``models`` says under which path
    (job name -> path) and ``headers`` with what they want to be asked.
    """

    name: str
    port: int
    process: Process | None = None
    keys: tuple[str, ...] = ()
    database: Path | None = None
    paced_port: int | None = None
    paths: Mapping[str, str] | None = None
    headers: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def target(self, job: Job, body: bytes | None = None, keys: tuple[str, ...] = ()) -> Target:
        """Where a request of this kind goes; ``keys`` instead of all there are."""
        port = self.port
        if self.database is not None:
            path = "/v1/chat/completions"
        elif self.paths is not None:
            path = self.paths[job.name]
        else:
            path = job.path
            port = self.paced_port if job.paced and self.paced_port else self.port
        body = body or chat_body(job.model, stream=job.stream)
        return Target(port, path, body, keys or self.keys, self.headers.get(job.name, ()))


@dataclass
class Stage:
    """The running bench. ``subjects`` by name; ``folder`` goes with it."""

    folder: Path
    cores: Cores
    static_port: int
    paced_port: int
    stack: ExitStack
    subjects: dict[str, Subject] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    """Requests that closed loops saw answered, by subject: so many must be charged at the end."""
    warmed: set[tuple[str, str]] = field(default_factory=set)
    """(subject, job) that had their unmeasured first load."""

    def start(
        self, name: str, command: list[str], port: int, core: int, **options: object
    ) -> Process:
        """A program that listens on ``port``, ended with the stage."""
        process = Process(
            command,
            log=self.folder / f"{name}.log",
            core=core,
            cwd=options.get("cwd", ROOT),  # type: ignore[arg-type]
            env=serve_env(options.get("env")),  # type: ignore[arg-type]
        )
        self.stack.callback(process.stop)
        self.processes.append(process)
        wait_for(process, port, timeout_s=float(options.get("timeout_s", 20)))  # type: ignore[arg-type]
        return process

    def stop(self, process: Process) -> None:
        process.stop()
        self.processes.remove(process)

    def watch(self) -> Watch:
        return Watch(p.pid for p in self.processes if p.running)

    # -- subjects --------------------------------------------------------------------------------

    def add_direct(self) -> None:
        self.subjects["direct"] = Subject("direct", self.static_port, paced_port=self.paced_port)

    def add_nginx(self) -> None:
        port, conf = free_port(), self.folder / "proxy.conf"
        conf.write_text(nginx.proxy_conf(self.folder, port, self.static_port, self.paced_port))
        process = self.start("nginx", ["nginx", "-c", str(conf)], port, self.cores.subject)
        self.subjects["nginx"] = Subject("nginx", port, process)

    def add_sanic(self) -> None:
        port = free_port()
        command = [_PYTHON, "-m", "bench.bare", str(port)]
        process = self.start("sanic", command, port, self.cores.subject)
        self.subjects["sanic"] = Subject("sanic", port, process)

    def add_sellapi(self, *, engine: str = "asyncio", accounts: int = 64) -> Subject:
        """A real ``sellapi serve`` on a shop of its own, synchronous=FULL as it always is."""
        name = "sellapi" if engine == "asyncio" else f"sellapi-{engine}"
        folder = self.folder / name
        folder.mkdir()
        database = folder / "shop.db"
        keys = stock(database, self.static_port, self.paced_port, accounts)
        return self.serve(name, database, keys, engine=engine)

    def serve(
        self,
        name: str,
        database: Path,
        keys: tuple[str, ...],
        *,
        engine: str = "asyncio",
        root: Path = ROOT,
    ) -> Subject:
        port = free_port()
        env = {"SELLAPI_ENGINE": engine}
        command = serve_command(database, port, root)
        process = self.start(name, command, port, self.cores.subject, env=env, cwd=root)
        subject = Subject(name, port, process, keys, database)
        self.subjects[name] = subject
        return subject


def serve_command(database: Path, port: int, root: Path = ROOT) -> list[str]:
    """``sellapi serve`` of the code in ``root``."""
    return [
        _PYTHON,
        str(root / "cli.py"),
        "serve",
        "--port",
        str(port),
        "--database",
        str(database),
    ]


def serve_env(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without its own SELLAPI settings, with the stand-ins' key."""
    env = {n: v for n, v in os.environ.items() if not n.startswith("SELLAPI_")}
    return env | {KEY_ENV: "sk-bench"} | dict(more or {})


@contextmanager
def open_stage(cores: Cores | None = None) -> Iterator[Stage]:
    """Stand-ins up; every program ended and the folder removed afterwards, whatever happens."""
    cores = cores or Cores.here()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # wrk and nginx need one per stream
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what follows is undone
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="sellapi-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        static, paced = free_port(), free_port()
        stage = Stage(folder, cores, static, paced, stack)
        conf = folder / "upstream.conf"
        conf.write_text(nginx.upstream_conf(folder, static))
        stage.start("upstream", ["nginx", "-c", str(conf)], static, cores.upstream)
        command = [_PYTHON, "-m", "bench.standin", str(paced)]
        stage.start("standin", command, paced, cores.upstream)
        time.sleep(0.2)
        yield stage
