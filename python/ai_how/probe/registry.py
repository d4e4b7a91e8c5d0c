"""A Consul of a run's own: an agent in memory on 127.0.0.1, for labs alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ai_how.errors import HostError, NotReady
from ai_how.host import consul
from ai_how.spec.cluster import Cluster
from ai_how.spec.policy import Discovery

PROGRAM = "consul"

#: Seconds until it leads, and until it has seen that the nodes answer.
_WITHIN = 20.0


def installed() -> bool:
    """Whether there is a Consul to run."""
    return shutil.which(PROGRAM) is not None


@contextmanager
def agent(folder: Path) -> Iterator[None]:
    """It answers for the length of a `with` block; what it says goes to `folder`. Raises NotReady."""
    with (folder / "consul.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=lab"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        try:
            _wait(lambda: _leads(process), "Consul does not start", folder / "consul.log")
            yield
        finally:
            process.kill()
            process.wait()


def wait_for_nodes(clusters: Collection[Cluster], folder: Path) -> None:
    """Wait until Consul has seen every node of `clusters` answer. Raises NotReady."""
    expected = {each.name: len(each.nodes) for each in clusters if each.network.policy.discovery is not None}
    discoveries = [each.network.policy.discovery for each in clusters if each.network.policy.discovery is not None]

    def all_healthy() -> bool:
        return sum(map(_healthy, discoveries)) == sum(expected.values())

    _wait(all_healthy, f"Consul does not find all nodes of {', '.join(expected)} healthy", folder / "consul.log")


def _leads(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise NotReady("Consul does not start", why=f"it ended with {process.returncode}")
    try:
        consul.check_consul(Discovery(service_name="lab"))
    except HostError:
        return False
    return True


def _healthy(discovery: Discovery) -> int:
    reply = consul.ask(discovery, "GET", f"/v1/health/service/{discovery.service_name}?passing")
    return len(json.loads(reply.text))


def _wait(holds: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + _WITHIN
    while not holds():
        if time.monotonic() > deadline:
            last = log.read_text(errors="replace").splitlines()[-1:] or ["it said nothing"]
            raise NotReady(what, why=f"not in {_WITHIN:g} s; {last[0]}")
        time.sleep(0.05)
