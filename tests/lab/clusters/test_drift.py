"""What somebody changed behind our back: `plan` names it and nothing else, `up` mends it and disturbs nobody.

Each kind of resource has a case or more; they share three clusters that stay up, of which one node runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.lab.clusters.conftest import COMMAND_DEADLINE, Ran
from tests.lab.consul_agent import Agent, agent
from tests.lab.resolvers import resolving_by
from tests.waiting import COMES_WITHIN

from ai_how.host import memory
from ai_how.resources.base import Kind
from ai_how.resources.hook import PATH as HOOK_PATH

AiHow = Callable[..., Ran]
Virsh = Callable[..., str]

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
DNSMASQ = Path("/var/lib/libvirt/dnsmasq")
POOL = Path("/var/lib/libvirt/images/ai-how-shared")

#: The clusters: one whose names the host knows, one with a route of the host, one in Consul.
SHARED, WAY, FOUND = "shared", "way", "found"
RUNS = "shared-controller"
ROUTE = "10.99.0.0/24"


def sh(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def ok(ran: Ran) -> str:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@dataclass(frozen=True)
class Scene:
    """The clusters of `path`, up, with one machine that runs."""

    path: Path
    folder: Path
    ai_how: AiHow
    virsh: Virsh
    consul: Agent

    def plan(self) -> list[dict[str, Any]]:
        """The steps that `up` would take now, of all clusters."""
        ran = self.ai_how("plan", self.path, "--no-start", "--exit-code", "--json", "--state", self.folder / "s.json")
        answers = json.loads(ran.stdout)
        steps = [step for each in answers for step in each["steps"]]
        assert ran.returncode == (1 if steps else 0), ran.stderr
        return steps

    def up(self, *words: str) -> None:
        ok(self.ai_how("up", self.path, "--no-start", "--no-wait", "--state", self.folder / "s.json", *words))

    def define(self, prefix: str, text: str) -> None:
        definition = self.folder / "definition.xml"
        definition.write_text(text)
        self.virsh(f"{prefix}define", str(definition))

    def rest(self) -> dict[str, object]:
        """What must go on as it is, whatever is mended: the machine that runs, and the bridges."""
        bridges = {name: (Path("/sys/class/net") / f"br-{name}" / "ifindex") for name in (SHARED, WAY, FOUND)}
        return {
            "machine": self.virsh("domid", RUNS),
            **{name: path.read_text() if path.exists() else "" for name, path in bridges.items()},
        }


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory,
    machine_room: None,
    configuration: Callable[..., dict[str, Any]],
    ai_how: AiHow,
    virsh: Virsh,
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("drift")
    networks: dict[str, dict[str, Any]] = {
        SHARED: {"subnet": "10.44.0.0/24", "dns_mode": "shared_dns"},
        WAY: {"subnet": "10.45.0.0/24", "dns_mode": "routed", "routes": [{"to": ROUTE, "via": "203.0.113.1"}]},
        FOUND: {"subnet": "10.46.0.0/24", "dns_mode": "service_discovery"},
    }
    clusters = {
        name: configuration(name=name, nodes=2 if name == SHARED else 1, network=network)["clusters"]["hpc"]
        for name, network in networks.items()
    }
    clusters[SHARED]["cloud_init"] = True
    path = folder / "clusters.yaml"
    path.write_text(yaml.safe_dump({"clusters": clusters}, sort_keys=False))
    with contextlib.ExitStack() as stack:
        stack.enter_context(resolving_by("plain_dnsmasq"))
        consul = stack.enter_context(agent(folder / "consul"))
        sh("iptables", "-P", "FORWARD", "DROP")
        stack.callback(sh, "iptables", "-P", "FORWARD", "ACCEPT")
        made = Scene(path, folder, ai_how, virsh, consul)
        stack.callback(lambda: ok(ai_how("destroy", path, "--yes", "--state", folder / "s.json")))
        made.up()
        virsh("start", RUNS)
        yield made


@pytest.fixture
def mended(scene: Scene) -> Callable[..., list[dict[str, Any]]]:
    """`mended(kind, key, change)`: after `change` the plan is about this alone; `up` mends it, and the rest goes on."""

    def check(*expected: str, change: Callable[[Scene], object], rest: bool = True) -> list[dict[str, Any]]:
        if dirty.exists():  # an earlier case failed
            scene.up("--yes")
        dirty.touch()
        before = scene.rest()
        change(scene)
        steps = scene.plan()
        assert sorted(f"{each['action']} {each['kind']} {each['key']}" for each in steps) == sorted(expected), steps
        scene.up(*(() if rest else ("--yes",)))
        assert scene.plan() == []
        assert not rest or scene.rest() == before
        dirty.unlink()
        return steps

    dirty = scene.folder / "dirty"
    return check


Mended = Callable[..., list[dict[str, Any]]]


def fields(steps: list[dict[str, Any]]) -> set[str]:
    return {each["field"] for step in steps for each in step["fields"]}


# Of the host


def test_sysctl(mended: Mended) -> None:
    mended("change sysctl net.ipv4.ip_forward", change=lambda _: FORWARDING.write_text("0"))
    assert FORWARDING.read_text() == "1\n"


def test_sysctl_that_the_hook_would_not_set(mended: Mended) -> None:
    settings = memory.DIRECTORY / "sysctl.settings"
    before = settings.read_text()
    mended("change sysctl net.ipv4.ip_forward", change=lambda _: settings.unlink())
    assert settings.read_text() == before


@pytest.mark.parametrize(
    "words",
    [
        ["delete", "table", "inet", "ai_how"],
        ["flush", "chain", "inet", "ai_how", "forward"],
        ["add", "rule", "inet", "ai_how", "forward", "accept"],
    ],
    ids=" ".join,
)
def test_firewall(words: list[str], mended: Mended) -> None:
    mended("change firewall ai_how", change=lambda _: sh("nft", *words))
    assert "br-shared" in sh("nft", "list", "table", "inet", "ai_how")


def test_firewall_after_a_flush_of_everything(mended: Mended) -> None:
    def flush(_: Scene) -> None:
        sh("nft", "flush", "ruleset")
        sh("iptables", "-P", "FORWARD", "DROP")

    mended("change firewall ai_how", "change passage FORWARD", change=flush)


def test_passage(mended: Mended) -> None:
    rule = ["FORWARD", "-i", "br-shared", "-m", "comment", "--comment", "ai-how", "-j", "ACCEPT"]
    mended("change passage FORWARD", change=lambda _: sh("iptables", "-D", *rule))
    sh("iptables", "-C", *rule)


@pytest.mark.parametrize("how", ["removed", "edited", "not executable"])
def test_hook(how: str, mended: Mended) -> None:
    hook = Path(HOOK_PATH)

    def change(_: Scene) -> None:
        match how:
            case "removed":
                hook.unlink()
            case "edited":
                hook.write_text(hook.read_text() + "exit 1\n")
            case _:
                hook.chmod(0o644)

    before = hook.read_text()
    mended(f"change hook {HOOK_PATH}", change=change)
    assert hook.read_text() == before
    assert os.access(hook, os.X_OK)


@pytest.mark.parametrize("how", ["removed", "edited", "emptied"])
@pytest.mark.parametrize("suffix", ["servers", "options"])
def test_servers(suffix: str, how: str, mended: Mended) -> None:
    path = DNSMASQ / f"ai-how-shared-network.{suffix}"
    before = path.read_text()

    def change(_: Scene) -> None:
        if how == "removed":
            path.unlink()
        else:
            path.write_text("" if how == "emptied" else before + "server=/elsewhere.test/192.0.2.1\n")

    mended("change servers shared-network", change=change)
    assert path.read_text() == before


@pytest.mark.parametrize("how", ["removed from the kernel", "by another router", "forgotten"])
def test_route(how: str, mended: Mended) -> None:
    def change(_: Scene) -> None:
        match how:
            case "removed from the kernel":
                sh("ip", "route", "del", ROUTE, "proto", "97")
            case "by another router":
                sh("ip", "route", "replace", ROUTE, "via", "203.0.113.9", "proto", "97")
            case _:
                memory.forget("routes.batch")

    mended(f"change route {ROUTE}", change=change)
    assert "via 203.0.113.1 " in sh("ip", "route", "show", ROUTE)
    assert ROUTE in (memory.DIRECTORY / "routes.batch").read_text()


@pytest.mark.parametrize("how", ["removed", "edited"])
def test_resolver(how: str, mended: Mended) -> None:
    path = Path("/etc/dnsmasq.d/ai-how-shared-network.conf")
    before = path.read_text()

    def change(_: Scene) -> None:
        if how == "removed":
            path.unlink()
        else:
            path.write_text(before.replace("10.44.0.1", "10.44.0.9"))

    mended(f"{'create' if how == 'removed' else 'change'} resolver shared-network", change=change)
    assert path.read_text() == before


# Of libvirt


def test_pool_that_was_stopped(mended: Mended) -> None:
    mended("change pool ai-how-shared", change=lambda scene: scene.virsh("pool-destroy", "ai-how-shared"))


def test_pool_that_was_undefined_keeps_its_disks(mended: Mended) -> None:
    def change(scene: Scene) -> None:
        scene.virsh("pool-destroy", "ai-how-shared")
        scene.virsh("pool-undefine", "ai-how-shared")

    disks = {each: each.stat().st_ino for each in POOL.iterdir()}
    mended("create pool ai-how-shared", change=change)
    assert {each: each.stat().st_ino for each in POOL.iterdir()} == disks


def test_volume(mended: Mended) -> None:
    mended(
        "create volume ai-how-shared/shared-compute-01.qcow2",
        change=lambda scene: scene.virsh("vol-delete", "shared-compute-01.qcow2", "--pool", "ai-how-shared"),
    )


def test_seed(mended: Mended) -> None:
    (seed,) = POOL.glob("shared-compute-01-*.iso")
    before = seed.read_bytes()
    mended(
        f"create seed ai-how-shared/{seed.name}",
        change=lambda scene: scene.virsh("vol-delete", seed.name, "--pool", "ai-how-shared"),
    )
    assert len(seed.read_bytes()) == len(before)


def test_domain_that_was_undefined(mended: Mended) -> None:
    mended("create domain shared-compute-01", change=lambda scene: scene.virsh("undefine", "shared-compute-01"))


def test_domain_that_was_undefined_while_it_runs_is_defined_again(scene: Scene, mended: Mended) -> None:
    steps = mended(f"change domain {RUNS}", change=lambda scene: scene.virsh("undefine", RUNS))
    assert fields(steps) == {"saved"}
    assert [each["class"] for each in steps] == ["live"]
    assert RUNS in scene.virsh("list", "--persistent", "--name").split()


def test_domain_that_was_edited(mended: Mended) -> None:
    def change(scene: Scene) -> None:
        text = scene.virsh("dumpxml", "--inactive", "shared-compute-01")
        edited = text.replace("<vcpu placement='static'>1</vcpu>", "<vcpu placement='static'>2</vcpu>")
        assert edited != text
        scene.define("", edited)

    assert fields(mended("change domain shared-compute-01", change=change)) == {"vcpus"}


def test_domain_that_lost_its_mark(mended: Mended) -> None:
    def change(scene: Scene) -> None:
        text = scene.virsh("dumpxml", "--inactive", "shared-compute-01")
        scene.define("", re.sub(r"(?s)<metadata>.*</metadata>", "", text))

    mended("create domain shared-compute-01", change=change)


def test_domain_whose_tap_was_taken_off_its_bridge(scene: Scene, mended: Mended) -> None:
    (tap,) = [each.name for each in Path("/sys/class/net/br-shared/brif").iterdir()]
    assert fields(mended(f"change domain {RUNS}", change=lambda _: sh("ip", "link", "set", tap, "nomaster"))) == {
        "linked"
    }
    assert Path(f"/sys/class/net/{tap}/master").resolve().name == "br-shared"


def edit_network(scene: Scene, old: str, new: str) -> None:
    """`virsh net-edit`, which changes what is defined and not what runs."""
    text = scene.virsh("net-dumpxml", "--inactive", "shared-network")
    assert old in text
    scene.define("net-", text.replace(old, new))


def test_network_whose_definition_was_edited(mended: Mended) -> None:
    steps = mended(
        "change network shared-network",
        change=lambda scene: edit_network(scene, "<domain name='shared.internal'", "<domain name='other.internal'"),
    )
    assert fields(steps) == {"saved"}
    assert [each["class"] for each in steps] == ["live"]


def test_network_that_was_changed_while_it_runs(scene: Scene, mended: Mended) -> None:
    host = "<host ip='10.44.0.77'><hostname>stranger</hostname></host>"
    steps = mended(
        "change network shared-network",
        change=lambda scene: scene.virsh("net-update", "shared-network", "add", "dns-host", host, "--live"),
    )
    assert "dns_hosts" in fields(steps)
    assert "stranger" not in scene.virsh("net-dumpxml", "shared-network")


def test_network_whose_mark_was_edited_away(scene: Scene, mended: Mended) -> None:
    def change(scene: Scene) -> None:
        text = scene.virsh("net-dumpxml", "--inactive", "found-network")
        scene.define("net-", re.sub(r"(?s)<metadata>.*</metadata>", "", text))

    # Which servers its gateway asks was in the mark, too: another cluster's turn takes them away, its own brings them.
    servers = ("change servers found-network",) * 2
    steps = mended("change network found-network", "create registration found-controller", *servers, change=change)
    assert "dns_mode" in fields(steps)


def test_network_that_does_not_start_by_itself_any_more(mended: Mended) -> None:
    mended(
        "change network shared-network",
        change=lambda scene: scene.virsh("net-autostart", "shared-network", "--disable"),
    )


def dnsmasq_of(network: str) -> int:
    return int(Path(f"/run/libvirt/network/{network}.pid").read_text())


def test_network_whose_dnsmasq_was_killed(mended: Mended) -> None:
    pid = dnsmasq_of("shared-network")

    def kill(_: Scene) -> None:
        with open_process(pid) as process:
            os.kill(pid, signal.SIGKILL)
            ended(process)

    steps = mended("change network shared-network", change=kill)
    assert fields(steps) == {"intact"}
    assert Path(f"/proc/{dnsmasq_of('shared-network')}").exists()
    assert dnsmasq_of("shared-network") != pid


@contextlib.contextmanager
def open_process(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def ended(process: int) -> None:
    assert select.select([process], [], [], COMES_WITHIN)[0]


@pytest.mark.parametrize(
    "words",
    [["link", "set", "br-shared", "down"], ["address", "del", "10.44.0.1/24", "dev", "br-shared"]],
    ids=["down", "without address"],
)
def test_network_whose_bridge_is(words: list[str], mended: Mended) -> None:
    before = sh("ip", "-o", "-4", "address", "show", "dev", "br-shared")
    assert fields(mended("change network shared-network", change=lambda _: sh("ip", *words))) == {"intact"}
    assert sh("ip", "-o", "-4", "address", "show", "dev", "br-shared") == before


def test_network_whose_bridge_is_gone_takes_its_machines_along(scene: Scene, mended: Mended) -> None:
    machine = scene.virsh("domid", RUNS)
    steps = mended(
        "change network shared-network",
        f"change domain {RUNS}",
        change=lambda _: sh("ip", "link", "del", "br-shared"),
        rest=False,
    )
    assert fields(steps) == {"bridged", "linked"}
    assert [each["class"] for each in steps if each["kind"] == "network"] == ["restart"]
    assert scene.virsh("domid", RUNS) == machine
    assert list(Path("/sys/class/net/br-shared/brif").iterdir())


def test_network_that_was_stopped_under_its_machines(scene: Scene, mended: Mended) -> None:
    machine = scene.virsh("domid", RUNS)
    steps = mended(
        "change network shared-network",
        f"change domain {RUNS}",
        change=lambda scene: scene.virsh("net-destroy", "shared-network"),
        rest=False,
    )
    assert "active" in fields(steps)
    assert scene.virsh("domid", RUNS) == machine
    assert list(Path("/sys/class/net/br-shared/brif").iterdir())


# Of Consul


@pytest.mark.parametrize("how", ["deregistered", "edited"])
def test_registration(how: str, scene: Scene, mended: Mended) -> None:
    service = "ai-how:found:found-controller"

    def change(scene: Scene) -> None:
        if how == "deregistered":
            scene.consul.call("PUT", f"/agent/service/deregister/{service}")
        else:
            known = scene.consul.services()[service]
            scene.consul.call(
                "PUT",
                "/agent/service/register",
                {"ID": service, "Name": "found", "Address": "10.46.0.99", "Meta": known["Meta"]},
            )

    mended(f"{'create' if how == 'deregistered' else 'change'} registration found-controller", change=change)
    assert scene.consul.services()[service]["Address"] == "10.46.0.2"


# What status can say of it without the configuration


def status(scene: Scene, *words: str) -> tuple[int, dict[str, set[str]]]:
    """Its exit code, and what it calls drift, by cluster."""
    ran = scene.ai_how("status", scene.path, "--json", *words)
    said = {
        each["cluster"]: {f"{one['kind']} {one['key']}" for one in each["drift"]} for each in json.loads(ran.stdout)
    }
    return ran.returncode, said


def test_status_tells_of_every_kind_that_the_host_knows_by_itself(scene: Scene, mended: Mended) -> None:
    scene.up("--yes")
    assert status(scene)[1] == {SHARED: set(), WAY: set(), FOUND: set()}
    (seed,) = POOL.glob("shared-compute-01-*.iso")
    (tap,) = [each.name for each in Path("/sys/class/net/br-shared/brif").iterdir()]
    edit_network(scene, "<domain name='shared.internal'", "<domain name='other.internal'")
    scene.virsh("vol-delete", "shared-compute-01.qcow2", "--pool", "ai-how-shared")
    scene.virsh("vol-delete", seed.name, "--pool", "ai-how-shared")
    sh("ip", "link", "set", tap, "nomaster")
    sh("ip", "route", "del", ROUTE, "proto", "97")
    sh("nft", "delete", "table", "inet", "ai_how")
    sh("iptables", "-D", "FORWARD", "-i", "br-way", "-m", "comment", "--comment", "ai-how", "-j", "ACCEPT")
    FORWARDING.write_text("0")
    Path(HOOK_PATH).unlink()
    Path("/etc/dnsmasq.d/ai-how-shared-network.conf").unlink()
    (DNSMASQ / "ai-how-way-network.servers").unlink()

    everybodys = {"firewall ai_how", "passage FORWARD", "sysctl net.ipv4.ip_forward", f"hook {HOOK_PATH}"}
    code, said = status(scene)
    assert said == {
        SHARED: everybodys
        | {
            "network shared-network",
            "volume ai-how-shared/shared-compute-01.qcow2",
            f"seed ai-how-shared/{seed.name}",
            f"domain {RUNS}",
            "resolver shared-network",
        },
        WAY: everybodys | {f"route {ROUTE}", "servers way-network"},
        FOUND: everybodys,
    }
    assert code == 1
    shown = scene.ai_how("status", scene.path)
    assert "drift: network shared-network: its definition says something else than what runs" in shown.stdout
    somebody = ["setpriv", "--bounding-set=-net_admin", "--", sys.executable, "-m", "ai_how", "status", SHARED]
    asked = subprocess.run(somebody, check=False, capture_output=True, text=True, timeout=COMMAND_DEADLINE)
    assert "not looked at: rules in the kernel" in asked.stderr
    assert "drift: network shared-network" in asked.stdout

    scene.up("--yes")
    assert status(scene)[1] == {SHARED: set(), WAY: set(), FOUND: set()}


def test_every_kind_of_resource_has_its_case() -> None:
    text = Path(__file__).read_text()
    assert [kind for kind in Kind if not re.search(rf"^def test_{kind}[_(]", text, flags=re.MULTILINE)] == []
