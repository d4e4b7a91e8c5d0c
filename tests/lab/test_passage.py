"""Nodes on hosts with somebody else's firewall, with both of libvirt's firewall backends and real packets.

Each host is a lab of its own (passage_scene.py sets it up). Our table is loaded throughout: what a passage lets through
another program's rules is still held by ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fetched import FIREWALLD, fetched
from tests.waiting import until

from ai_how.errors import HostError
from ai_how.host import memory
from ai_how.host.libvirt import Libvirt
from ai_how.lab import Lab
from ai_how.providers import passage
from ai_how.resources.passage import Passage

SCENE = Path(__file__).with_name("passage_scene.py")

#: A port of the host that nodes may use, by allow_host_ports.
OPENED = {"nat: opened port", "route: opened port"}

#: What shall work on any host. What is tried and not in it, shall not: a service of the host, and from a container.
ALL = {
    *(f"{mode}: {what}" for mode in ("nat", "route") for what in ("lease", "neighbour", "gateway", "names", "web")),
    *OPENED,
    "route: from the LAN",
}

#: Seconds for what is done in the lab, on a busy machine.
DEADLINE = 300.0

AI_HOW = f"{sys.executable} -m ai_how"
_CLUSTER = """
clusters:
  hpc:
    name: {name}
    base_image_path: {folder}/blank.qcow2
    network:
      subnet: {subnet}
      bridge: {name}
      dns_mode: {mode}
      firewall: {{allow_host_ports: [7778/tcp], allow_from: [203.0.113.0/24]}}
    controller: {{cpu_cores: 1, memory_gb: 0.125, disk_gb: 1}}
"""

OWN_NFTABLES = "inet filter"


class Host:
    """A lab with the scene in it."""

    def __init__(self, lab: Lab, program: subprocess.Popen[str]) -> None:
        self.lab = lab
        self._program = program

    def do(self, *words: str) -> Any:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        print(*words, file=self._program.stdin, flush=True)
        said = self._program.stdout.readline()
        assert said, f"{words}: see the traceback on standard error"
        return json.loads(said)

    def sh(self, script: str) -> str:
        ran = self.lab.run(["bash", "-ec", f"PATH=/run/passage-scene:$PATH\n{script}"], timeout=DEADLINE)
        assert ran.returncode == 0, f"{script}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def works(self) -> set[str]:
        """What works of all that is tried."""
        return {name for name, answer in self.do("try").items() if answer == "works"}

    def assert_works(self, wanted: set[str]) -> None:
        """That works, and nothing else of all that is tried. On a busy machine an answer may be late: it is tried again
        where one is missing, and what ever works counts."""
        found = self.works()
        for _ in range(4):
            if found >= wanted:
                break
            found |= self.works()
        assert found == wanted

    def rules(self, command: str = "iptables") -> str:
        """`iptables-save` without counters and comments."""
        lines = self.sh(f"{command}-save").splitlines()
        return "\n".join(line.split(" [")[0] for line in lines if not line.startswith("#"))


@pytest.fixture(params=["iptables", "nftables"])
def host(request: pytest.FixtureRequest, nested_lab: Callable[..., Lab]) -> Iterator[Host]:
    """A host whose libvirt writes its rules by this backend: 9.0 of the system, 11.3."""
    root = request.getfixturevalue("new_libvirt") if request.param == "nftables" else None
    lab = nested_lab(internet=True, libvirt_root=root)
    argv = lab.enter([sys.executable, str(SCENE)])
    with subprocess.Popen(
        argv, env=lab.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        yield Host(lab, program)
        assert program.stdin is not None
        program.stdin.close()


def backend(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["host"])


def test_without_other_firewalls_all_works_and_no_passage_is_made(host: Host) -> None:
    host.do("networks")
    assert host.do("look") == {"needed": [], "passages": {}, "obstacles": []}
    host.assert_works(ALL)


@pytest.mark.parametrize("first", ["networks", "docker"])
def test_nodes_reach_all_they_should_on_a_host_with_docker(
    host: Host, first: str, request: pytest.FixtureRequest
) -> None:
    for each in (first, "docker" if first == "networks" else "networks"):
        host.do(each)
    with_docker = ALL | {"container: web"}
    # libvirt's rules for iptables are in the chain that Docker lets drop; those for nftables are not heard there.
    lost = {f"{mode}: {what}" for mode in ("nat", "route") for what in ("neighbour", "web")} | {"route: from the LAN"}
    host.assert_works(with_docker if backend(request) == "iptables" else with_docker - lost)
    assert host.do("look")["needed"] == ["DOCKER-USER"]
    before = host.rules()
    host.do("pass")
    host.assert_works(with_docker)
    assert host.do("look") == {
        "needed": ["DOCKER-USER"],
        "passages": {"DOCKER-USER": ["pf-nat", "pf-route"]},
        "obstacles": [],
    }
    host.do("unpass")
    assert host.rules() == before


def test_nodes_reach_all_they_should_where_the_host_itself_is_closed_as_by_ufw(
    host: Host, request: pytest.FixtureRequest
) -> None:
    host.do("ufw")
    host.do("networks")
    # By libvirt's other backend there is not even a lease.
    host.assert_works(ALL - {"nat: gateway", "route: gateway"} - OPENED if backend(request) == "iptables" else set())
    before = host.rules()
    host.do("pass")
    host.assert_works(ALL)
    assert set(host.do("look")["passages"]) == {"FORWARD", "INPUT"}
    host.do("unpass")
    assert host.rules() == before


def test_a_table_of_the_administrator_s_is_named_with_commands_that_open_it(host: Host) -> None:
    host.do("nft")
    host.do("networks")
    host.assert_works(set())
    found = host.do("look")
    assert found["needed"] == []
    assert [each["what"] for each in found["obstacles"]] == [
        f"the nftables chain {OWN_NFTABLES} input",
        f"the nftables chain {OWN_NFTABLES} forward",
    ]
    for each in found["obstacles"]:
        host.sh(each["remedy"])
    host.assert_works(ALL)
    assert host.do("look")["obstacles"] == []


def test_nodes_reach_all_they_should_on_a_host_with_firewalld_also_after_its_reload(host: Host) -> None:
    host.do("firewalld", str(fetched(FIREWALLD)))
    host.do("networks")
    zones = "libvirt\n  interfaces: pf-nat\nlibvirt-routed\n  interfaces: pf-route\n"
    assert host.sh("firewall-cmd --get-active-zones") == zones
    host.assert_works(ALL - OPENED)
    for found in host.do("look")["obstacles"]:
        assert found["what"] == "firewalld"
        host.sh(found["remedy"])
    host.assert_works(ALL)
    assert host.do("look")["obstacles"] == []
    host.sh("firewall-cmd --reload")
    until(lambda: host.works() == ALL, "libvirt hears of it and puts its rules back", DEADLINE)
    assert host.sh("firewall-cmd --get-active-zones") == zones
    assert host.do("look")["obstacles"] == []


def test_a_bridge_that_firewalld_has_in_no_zone_of_libvirt_s_is_named_with_the_command_that_moves_it(
    host: Host,
) -> None:
    host.do("firewalld", str(fetched(FIREWALLD)))
    host.do("networks")
    host.sh("firewall-cmd --zone=public --change-interface=pf-nat")
    assert {name for name in host.works() if name.startswith("nat")} <= {"nat: neighbour", "nat: gateway"}
    stray, port = host.do("look")["obstacles"]
    assert stray["what"] == "firewalld"
    assert "pf-nat is in none of libvirt's zones" in stray["why"]
    assert "pf-route" not in stray["why"]
    assert "7778/tcp" in port["why"]
    host.sh(stray["remedy"])
    host.assert_works(ALL - OPENED)


def test_a_reload_of_firewalld_empties_iptables_and_our_passages_are_seen_to_be_missing(host: Host) -> None:
    host.do("firewalld", str(fetched(FIREWALLD)))
    host.do("networks")
    host.do("docker")
    host.do("pass")
    host.assert_works(ALL - OPENED)  # a real Docker tells firewalld of docker0; the container's own way is not ours
    assert host.do("look")["passages"] == {"DOCKER-USER": ["pf-nat", "pf-route"]}
    host.sh("firewall-cmd --reload")
    assert host.do("look")["passages"] == {"DOCKER-USER": []}


def test_docker_s_rules_in_the_old_tables_are_named_with_commands_that_open_them(host: Host) -> None:
    if host.lab.run(["iptables-legacy", "-S"]).returncode != 0:
        pytest.skip("this kernel has no tables for iptables-legacy")
    host.do("docker", "iptables-legacy")
    host.do("networks")
    lost = {f"{mode}: {what}" for mode in ("nat", "route") for what in ("neighbour", "web")} | {"route: from the LAN"}
    host.assert_works((ALL | {"container: web"}) - lost)
    said = host.do("look")
    assert said["needed"] == []
    (found,) = said["obstacles"]
    assert found["what"] == "the chain DOCKER-USER of iptables-legacy"
    host.sh(found["remedy"])
    host.assert_works(ALL | {"container: web"})
    assert host.do("look")["obstacles"] == []


def test_clusters_come_up_on_a_host_with_docker_and_leave_it_as_it_was(host: Host, tmp_path: Path) -> None:
    host.do("docker")
    before = host.sh("iptables -S")
    host.sh(f"qemu-img create -q -f qcow2 {tmp_path}/blank.qcow2 1M")
    for name, mode, subnet in (("pf-nat", "isolated", "10.77.0.0/24"), ("pf-route", "routed", "10.78.0.0/24")):
        (tmp_path / f"{name}.yaml").write_text(_CLUSTER.format(name=name, mode=mode, subnet=subnet, folder=tmp_path))
    said = host.sh(f"cd {tmp_path} && for each in pf-*.yaml; do {AI_HOW} up $each --no-start; done")
    assert "warning" not in said
    assert host.do("look")["passages"] == {"DOCKER-USER": ["pf-nat", "pf-route"]}
    host.sh("ip -n internet route add 10.78.0.0/24 via 203.0.113.2")
    host.assert_works(ALL | {"container: web"})
    host.sh(f"cd {tmp_path} && {AI_HOW} destroy pf-nat.yaml --yes")
    assert host.do("look")["passages"] == {"DOCKER-USER": ["pf-route"]}
    host.sh(f"cd {tmp_path} && {AI_HOW} destroy pf-route.yaml --yes")
    assert _without_libvirt(host.sh("iptables -S")) == _without_libvirt(before)


def _without_libvirt(rules: str) -> list[str]:
    """libvirt keeps its own chains after its first network."""
    return [line for line in rules.splitlines() if "LIBVIRT" not in line]


@pytest.fixture
def strangers() -> Iterator[Callable[[], str]]:
    """Rules of others in this lab's own iptables; what all rules are, without counters."""
    _iptables("-N", "DOCKER-USER")
    _iptables("-A", "DOCKER-USER", "-j", "RETURN")
    _iptables("-A", "FORWARD", "-i", "br-x", "-m", "comment", "--comment", "ai-how's not", "-j", "ACCEPT")
    _iptables("-A", "FORWARD", "-i", "br-x", "-j", "ACCEPT")
    try:
        yield lambda: _iptables("-S")
    finally:
        _iptables("-D", "FORWARD", "-i", "br-x", "-j", "ACCEPT")
        _iptables("-D", "FORWARD", "-i", "br-x", "-m", "comment", "--comment", "ai-how's not", "-j", "ACCEPT")
        _iptables("-F", "DOCKER-USER")
        _iptables("-X", "DOCKER-USER")


def _iptables(*words: str) -> str:
    return subprocess.run(["iptables", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def libvirt(libvirt_uri: str) -> Iterator[Libvirt]:
    with Libvirt(libvirt_uri) as connected:
        yield connected


def test_passages_come_change_and_go_and_leave_the_rules_of_others(
    libvirt: Libvirt, clean_host: None, strangers: Callable[[], str]
) -> None:
    before = strangers()
    forward, incoming = Passage("FORWARD", ("br-x", "br-y")), Passage("INPUT", ("br-x",))
    for each in (forward, incoming, forward):
        passage.create(libvirt, each)
    assert passage.observe(libvirt, "") == [forward, incoming]
    for chain, count in (("FORWARD", 4), ("INPUT", 1)):
        rules = [line for line in strangers().splitlines() if line.startswith(f"-A {chain} ")]
        ours = [line for line in rules if "--comment ai-how -j" in line]
        assert ours == rules[:count]
    assert (memory.DIRECTORY / "passage.rules").read_text() == "FORWARD br-x\nFORWARD br-y\nINPUT br-x\n"
    fewer = Passage("FORWARD", ("br-y",))
    passage.change(libvirt, forward, fewer)
    assert passage.observe(libvirt, "") == [fewer, incoming]
    passage.remove(libvirt, fewer)
    passage.remove(libvirt, fewer)
    assert passage.observe(libvirt, "") == [incoming]
    passage.remove(libvirt, incoming)
    assert passage.observe(libvirt, "") == []
    assert strangers() == before
    assert list(memory.DIRECTORY.glob("passage*")) == []


def test_what_is_missing_half_there_or_there_twice_is_mended(
    libvirt: Libvirt, clean_host: None, strangers: Callable[[], str]
) -> None:
    want = Passage("DOCKER-USER", ("br-x", "br-y", "br-z"))
    passage.create(libvirt, want)
    whole = strangers()
    for line in whole.splitlines():
        if "br-x" in line and "-o br-x" not in line and "ai-how -j" in line:
            _iptables("-D", *line.split()[1:])
        if "-o br-y" in line:
            _iptables("-A", *line.split()[1:])
    assert passage.observe(libvirt, "") == [Passage("DOCKER-USER", ("br-z",))]
    memory.forget("passage.json")
    assert passage.observe(libvirt, "") == [Passage("DOCKER-USER", ())]
    passage.change(libvirt, Passage("DOCKER-USER", ()), want)
    assert sorted(strangers().splitlines()) == sorted(whole.splitlines())
    assert passage.observe(libvirt, "") == [want]
    passage.remove(libvirt, want)


@pytest.mark.parametrize("file", ["passage.rules", "passage.json"])
@pytest.mark.parametrize("text", ["", "[1]", '{"FORWARD": 1}'])
def test_passages_that_the_hook_would_not_make_again_are_remembered_anew(
    libvirt: Libvirt, clean_host: None, file: str, text: str
) -> None:
    want = Passage("FORWARD", ("br-x", "br-y"))
    passage.create(libvirt, want)
    before = (memory.DIRECTORY / "passage.rules").read_text()
    (memory.DIRECTORY / file).write_text(text)
    lost = Passage("FORWARD", ())
    assert passage.observe(libvirt, "") == [lost]
    passage.change(libvirt, lost, want)
    assert passage.observe(libvirt, "") == [want]
    assert (memory.DIRECTORY / "passage.rules").read_text() == before
    passage.remove(libvirt, want)


def test_a_chain_that_went_with_its_program_is_no_trouble_when_the_passage_goes(
    libvirt: Libvirt, clean_host: None
) -> None:
    _iptables("-N", "DOCKER-USER")
    want = Passage("DOCKER-USER", ("br-x",))
    passage.create(libvirt, want)
    _iptables("-F", "DOCKER-USER")
    _iptables("-X", "DOCKER-USER")
    gone = Passage("DOCKER-USER", ())
    assert passage.observe(libvirt, "") == [gone]
    with pytest.raises(HostError, match="DOCKER-USER"):
        passage.change(libvirt, gone, want)
    passage.remove(libvirt, gone)
    assert passage.observe(libvirt, "") == []


def test_without_root_what_was_applied_last_is_seen(
    libvirt: Libvirt, clean_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = Passage("FORWARD", ("br-x", "br-y"))
    passage.create(libvirt, want)
    with monkeypatch.context() as patched:
        patched.setattr(memory, "is_root", lambda: False)
        patched.setenv("PATH", "")
        assert passage.observe(libvirt, "") == [want]
    passage.remove(libvirt, want)
