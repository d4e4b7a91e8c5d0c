"""The documented script without libvirt, and what findings mean together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ai_how.diagnose import report
from ai_how.diagnose.facts import Facts, Link, Network, Server
from ai_how.diagnose.finding import Answer, Finding
from ai_how.diagnose.look import read_servers
from ai_how.errors import LibvirtError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "python/ai_how/examples/network_troubleshooting.py"
NOWHERE = "qemu:///system?socket=/nowhere/libvirt-sock"


def ask(*words: str, python: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python, SCRIPT, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LIBVIRT_DEFAULT_URI": NOWHERE},
    )


@pytest.mark.parametrize("words", [(), ("networks",), ("dnsmasq",), ("network", "n"), ("vm", "m")])
def test_host_that_cannot_be_looked_at_is_neither_well_nor_wrong(words: tuple[str, ...]) -> None:
    ended = ask(*words)
    assert ended.returncode == 3
    assert ended.stdout.startswith("unknown  libvirt: ")
    assert "ok " not in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [("nonsense",), ("network",), ("vm", "a", "b")])
def test_wrong_use_names_the_questions(words: tuple[str, ...]) -> None:
    ended = ask(*words)
    assert ended.returncode == 2
    assert "[networks | dnsmasq | network NAME | vm NAME]" in ended.stderr
    assert ended.stdout == ""


def test_interpreter_that_has_nothing_of_ours_finds_us_and_tells_what_is_missing() -> None:
    bare = (sys.executable, "-I", "-S")
    assert subprocess.run([*bare, "-c", "import ai_how"], cwd=ROOT, capture_output=True, check=False).returncode == 1
    ended = ask(python=bare)
    assert ended.returncode == 3
    assert "libvirt's Python bindings cannot be loaded" in ended.stdout


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([], 0),
        ([Answer.OK, Answer.WARN], 0),
        ([Answer.OK, Answer.UNKNOWN], 3),
        ([Answer.UNKNOWN, Answer.FAIL, Answer.OK], 1),
    ],
)
def test_not_having_looked_is_never_a_pass(answers: list[Answer], code: int) -> None:
    assert report.exit_code(Finding("c", "s", answer, "") for answer in answers) == code


def test_evidence_of_what_is_well_is_shown_on_demand_only() -> None:
    found = [
        Finding("a", "s", Answer.OK, "fine", ("seen 1",)),
        Finding("b", "s", Answer.FAIL, "broken", ("seen 2",), "mend it"),
    ]
    assert report.text(found, evidence=False) == (
        "ok       s: fine\nfail     s: broken [b]\n           seen 2\n           → mend it"
    )
    assert "seen 1" in report.text(found, evidence=True)


def test_without_libvirt_the_bridges_and_servers_are_told_but_not_judged() -> None:
    facts = Facts(
        links={"br0": Link("br0", up=False, bridge=True, master=None, address=None)},
        servers=(Server(7, "net0", stopped=False),),
        problem=LibvirtError("no connection"),
    )
    found = report.findings(facts, report.checks_for(()))
    assert [finding.answer for finding in found] == [Answer.UNKNOWN] * 3
    assert {finding.subject for finding in found} == {"libvirt", "br0", "net0"}


def test_network_without_dhcp_and_dns_needs_no_server() -> None:
    network = Network("n", True, False, "br0", "none", None, (), False, (), None)
    facts = Facts(links={}, servers=(), networks=(network,))
    assert report.findings(facts, report.checks_for(("dnsmasq",))) == []


def test_servers_are_found_among_processes(tmp_path: Path) -> None:
    def process(pid: str, cmdline: str, state: str = "S", namespace: str = "net:[1]") -> None:
        folder = tmp_path / pid
        (folder / "ns").mkdir(parents=True)
        (folder / "cmdline").write_text(cmdline)
        (folder / "stat").write_text(f"9 (dns) masq) {state} 1 9")
        (folder / "ns" / "net").symlink_to(namespace)

    serving = "/usr/sbin/dnsmasq\0--conf-file=/var/lib/libvirt/dnsmasq/{}.conf\0--leasefile-ro\0"
    process("self", "python\0")
    process("10", serving.format("one"))
    process("11", serving.format("two-b"), state="T")
    process("12", serving.format("elsewhere"), namespace="net:[2]")
    process("13", "/usr/sbin/dnsmasq\0--conf-file=/etc/dnsmasq.conf\0")
    process("14", "grep\0--conf-file=/var/lib/libvirt/dnsmasq/one.conf\0")
    process("15", "")
    assert read_servers(tmp_path) == (Server(10, "one", stopped=False), Server(11, "two-b", stopped=True))
