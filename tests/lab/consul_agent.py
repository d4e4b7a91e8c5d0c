"""A real Consul for tests: version 1.8.7 from Debian's archive (tests/fetched.py), on 127.0.0.1 inside the lab."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fetched import CONSUL, NotFetched, fetched
from tests.waiting import COMES_WITHIN, until

from ai_how.spec.policy import Check, Discovery


@dataclass(frozen=True)
class Agent:
    """A running agent. Its HTTP API is at `port`; with 8500 and no other, DNS is where a configuration expects it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def dns_port(self) -> int:
        return self.port + 100

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def https(self) -> str:
        return f"https://127.0.0.1:{self.port + 1}"

    def discovery(self, **fields: Any) -> Discovery:
        """How a cluster finds it. Its check is quick."""
        base = Discovery("hpc", self.address, self.dns_port, check=Check(port=22, interval=1, timeout=1))
        return replace(base, **fields)

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """What the HTTP API answers, asked by other code than ai-how's."""
        request = urllib.request.Request(  # noqa: S310 - http alone
            f"{self.address}/v1{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={} if token is None else {"X-Consul-Token": token},
        )
        with urllib.request.urlopen(request, timeout=COMES_WITHIN) as answer:  # noqa: S310
            text = answer.read().decode()
        return json.loads(text) if text.strip() else None

    def services(self, token: str | None = None) -> dict[str, Any]:
        """All services that it has, by ID."""
        found: dict[str, Any] = self.call("GET", "/agent/services", token=token)
        return found

    def kill(self) -> None:
        """It dies without a word, and its data stay."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def agent(folder: Path, port: int = 8500, *, wait: bool = True, **configuration: Any) -> Iterator[Agent]:
    """An agent that is its own server, with its data in `folder`; leads when this returns, if `wait`."""
    folder.mkdir(exist_ok=True)
    names = ("server", "serf_lan", "serf_wan", "http", "https")
    settings = {
        "node_name": "lab",
        "server": True,
        "bootstrap_expect": 1,
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "data_dir": str(folder / "data"),
        "ports": {"dns": port + 100} | {name: port + number for number, name in enumerate(names, -3)},
        "disable_update_check": True,
        "performance": {"raft_multiplier": 1},
    }
    if "cert_file" not in configuration:
        settings["ports"] = {**settings["ports"], "https": -1}  # type: ignore[dict-item]
    (folder / "agent.json").write_text(json.dumps(settings | configuration))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [program(), "agent", f"-config-file={folder / 'agent.json'}"], stdout=log, stderr=log, cwd=folder
        )
    made = Agent(folder, port, process)
    try:
        if wait:
            until(
                lambda: (
                    made.call("GET", "/status/leader") and made.call("GET", "/catalog/nodes?near=_agent") is not None
                ),
                "the agent leads",
                passing=(OSError,),  # it does not listen yet
            )
        yield made
    finally:
        made.kill()


def program() -> str:
    """Consul's program. Fails the test where it cannot be had."""
    try:
        return str(fetched(CONSUL, suite="bullseye") / "usr/bin/consul")
    except NotFetched as error:
        pytest.fail(f"Consul cannot be had from Debian's archive: {error}", pytrace=False)
