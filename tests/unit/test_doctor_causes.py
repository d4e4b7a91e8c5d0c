"""From findings to causes: what explains what, what is left, in which order, and what programs get to see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ai_how.diagnose.catalogue import CATALOGUE
from ai_how.diagnose.causes import Diagnosis, conclude, explains
from ai_how.diagnose.finding import Answer, Finding, Fix
from ai_how.diagnose.question import Question


def _finding(check: str, network: str = "", machine: str = "", answer: Answer = Answer.FAIL, **more: Any) -> Finding:
    subject = more.pop("subject", machine or network or "host")
    return Finding(check, subject, answer, f"{check} is so", network=network, machine=machine, **more)


def _concluded(*findings: Finding) -> Diagnosis:
    return conclude(Question(), findings)


def _ids(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(each.id, each.subject) for each in diagnosis.causes]


def test_the_catalogue_explains_only_what_it_knows_and_nothing_by_itself() -> None:
    for identifier, known in CATALOGUE.items():
        assert {each.partition(":")[0] for each in known.explains} <= set(CATALOGUE), identifier
        assert identifier not in known.explains


def test_a_cause_of_the_host_covers_networks_and_machines() -> None:
    diagnosis = _concluded(
        _finding("vm-no-lease", "a", "node"), _finding("network-inactive", "a"), _finding("dnsmasq-missing")
    )
    assert _ids(diagnosis) == [("dnsmasq-missing", "host")]


def test_a_cause_of_a_network_covers_its_machines_and_those_of_no_other() -> None:
    diagnosis = _concluded(
        _finding("dnsmasq-dead", "a"), _finding("vm-no-lease", "a", "mine"), _finding("vm-no-lease", "b", "other")
    )
    assert _ids(diagnosis) == [("dnsmasq-dead", "a"), ("vm-no-lease", "other")]


def test_a_cause_of_a_network_covers_nothing_of_the_whole_host() -> None:
    assert not explains(_finding("bridge-missing", "a"), _finding("rp-filter"))


def test_a_cause_of_a_machine_covers_that_machine_alone() -> None:
    cause = _finding("vm-tap-detached", "a", "one")
    assert explains(cause, _finding("vm-no-lease", "a", "one"))
    assert not explains(cause, _finding("vm-no-lease", "a", "two"))


def test_a_cause_of_a_machine_covers_what_is_said_of_its_network_without_a_machine() -> None:
    cause = _finding("vm-tap-detached", "a", "one")
    assert explains(cause, _finding("lease-mismatch", "a"))
    assert not explains(cause, _finding("lease-mismatch", "b"))


def test_what_is_explained_is_no_cause_and_stands_under_its_own() -> None:
    effect, further = _finding("network-inactive", "a"), _finding("vm-guest-misconfigured", "a", "node")
    diagnosis = _concluded(effect, further, _finding("dnsmasq-missing"))
    (cause,) = diagnosis.causes
    assert cause.explains == (effect, further)  # the second by the first
    assert "explains network-inactive of a: network-inactive is so" in cause.because
    assert len(diagnosis.findings) == 3


def test_what_two_causes_explain_is_under_both() -> None:
    effect = _finding("vm-no-lease", "a", "node")
    diagnosis = _concluded(effect, _finding("dhcp-pool-exhausted", "a"), _finding("vm-link-down", "a", "node"))
    assert [each.explains for each in diagnosis.causes] == [(effect,), (effect,)]


def test_of_two_that_explain_each_other_the_earlier_in_the_chain_stays() -> None:
    dead, silent = _finding("dnsmasq-dead", "a"), _finding("dnsmasq-unresponsive", "a")
    assert explains(dead, silent)
    assert explains(silent, dead)
    for findings in ((dead, silent), (silent, dead)):
        (cause,) = _concluded(*findings).causes
        assert (cause.id, cause.explains) == ("dnsmasq-dead", (silent,))


def test_every_finding_that_is_wrong_is_a_cause_or_explained_by_one() -> None:
    wrong = [
        _finding(each, network, machine) for each in CATALOGUE for network in "ab" for machine in ("", f"{network}1")
    ]
    diagnosis = _concluded(*wrong)
    told = {id(each) for cause in diagnosis.causes for each in (cause.finding, *cause.explains)}
    assert told == set(map(id, wrong))
    roots = {id(cause.finding) for cause in diagnosis.causes}
    assert not any(id(each) in roots for cause in diagnosis.causes for each in cause.explains)


def test_drift_is_explained_by_a_cause_of_the_same_thing_only() -> None:
    drift = _finding("config-drift", "a", answer=Answer.WARN)
    assert explains(_finding("bridge-missing", "a"), drift)
    assert not explains(_finding("bridge-missing", "b"), drift)
    assert not explains(_finding("hook-missing"), drift)
    assert explains(_finding("hook-missing"), _finding("config-drift"))
    assert not explains(_finding("bridge-missing", "a"), _finding("config-drift", "a", "node"))
    assert explains(_finding("vm-not-running", "a", "node"), _finding("config-drift", "", "node"))
    assert not explains(_finding("vm-not-running", "a", "node"), drift)


def test_drift_of_a_kind_is_explained_wherever_it_is_and_no_other_kind() -> None:
    cause = _finding("ip-forward-off")
    assert explains(cause, _finding("config-drift", kind="sysctl"))
    assert explains(cause, _finding("config-drift", "b", kind="sysctl"))
    assert not explains(cause, _finding("config-drift", kind="passage"))
    assert not explains(cause, _finding("config-drift"))


def test_a_warning_explains_no_failure_but_a_warning() -> None:
    warning = _finding("dhcp-pool-exhausted", "a", answer=Answer.WARN)
    assert not explains(warning, _finding("vm-no-lease", "a", "node"))
    assert explains(warning, _finding("vm-no-lease", "a", "node", answer=Answer.WARN))
    assert explains(_finding("dhcp-pool-exhausted", "a"), _finding("vm-no-lease", "a", "node", answer=Answer.WARN))


def test_what_is_well_or_not_known_is_neither_cause_nor_effect() -> None:
    diagnosis = _concluded(_finding("dnsmasq-missing", answer=Answer.UNKNOWN), _finding("network-inactive", "a"))
    assert _ids(diagnosis) == [("network-inactive", "a")]
    assert [each.check for each in diagnosis.unseen] == ["dnsmasq-missing"]


def test_failures_come_before_advice_then_the_chain_then_the_table_then_the_name() -> None:
    diagnosis = _concluded(
        _finding("vm-wrong-network", "z", "m"),
        _finding("mtu-mismatch", "b"),
        _finding("mtu-mismatch", "a"),
        _finding("rogue-dhcp", "c"),
        _finding("stale-lease", "d"),
        _finding("outdated-package", answer=Answer.WARN),
    )
    assert _ids(diagnosis) == [
        ("rogue-dhcp", "c"),
        ("stale-lease", "d"),
        ("mtu-mismatch", "a"),
        ("mtu-mismatch", "b"),
        ("vm-wrong-network", "m"),
        ("outdated-package", "host"),
    ]
    assert diagnosis.root is diagnosis.causes[0]


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([_finding("bridge-down", "a", answer=Answer.OK)], 0),
        ([_finding("bridge-down", "a", answer=Answer.WARN)], 1),
        ([_finding("bridge-down", "a"), _finding("rogue-dhcp", answer=Answer.UNKNOWN)], 1),
        ([_finding("bridge-down", "a", answer=Answer.OK), _finding("rogue-dhcp", answer=Answer.UNKNOWN)], 3),
        ([_finding("libvirtd-down")], 3),
        ([_finding("permission-denied")], 3),
        ([_finding("libvirtd-down"), _finding("conntrack-full")], 1),
    ],
)
def test_exit_code_is_0_healthy_1_wrong_3_could_not_look(findings: list[Finding], code: int) -> None:
    assert _concluded(*findings).exit_code == code


def test_json_has_the_shape_that_is_promised() -> None:
    fix = Fix((("virsh", "net-start", "a b"),), automatic=True)
    cause = _finding("network-inactive", "a b", evidence=("machines: x",), fix=fix)
    found = json.loads(json.dumps(_concluded(cause, _finding("bridge-down", "c", answer=Answer.OK)).to_json()))
    assert set(found) == {"root_cause", "causes", "findings"}
    assert found["root_cause"] == "network-inactive"
    (told,) = found["causes"]
    assert set(told) == {"id", "subject", "because", "fix"}
    assert (told["id"], told["subject"]) == ("network-inactive", "a b")
    assert told["because"] == ["network-inactive is so", "machines: x"]
    assert told["fix"]["commands"] == ["virsh net-start 'a b'"]
    assert told["fix"]["automatic"] is True
    assert [set(each) for each in found["findings"]] == [{"check", "subject", "answer", "summary", "evidence"}] * 2
    assert [each["answer"] for each in found["findings"]] == ["fail", "ok"]


def test_json_of_a_healthy_host_has_no_root_cause() -> None:
    assert _concluded().to_json() == {"root_cause": None, "causes": [], "findings": []}
