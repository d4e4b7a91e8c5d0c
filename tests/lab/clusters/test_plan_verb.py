"""`ai-how plan`, plan files, and the consent that `up` asks for."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.host_view import HostView, left
from tests.lab.clusters.conftest import COMMAND_DEADLINE

Ran = subprocess.CompletedProcess[str]
AiHow = Callable[..., Ran]
Virsh = Callable[..., str]
Write = Callable[..., Path]

KEYS = {"action", "kind", "key", "class", "reason", "fields", "disturbs"}


def steps(ai_how: AiHow, *words: object) -> list[dict[str, Any]]:
    """The steps of a plan as JSON, whose shape is checked."""
    ran = ai_how("plan", *words, "--json")
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    found: list[dict[str, Any]] = answer["steps"]
    assert answer["changes"] is bool(found)
    assert all(set(step) == KEYS for step in found)
    assert all(set(each) == {"field", "old", "new"} for step in found for each in step["fields"])
    return found


def test_a_plan_changes_nothing_and_says_what_up_then_does(
    ai_how: AiHow, write: Write, look_at_host: Callable[[], HostView]
) -> None:
    path = write()
    before = look_at_host()
    planned = steps(ai_how, path)
    assert left(before) == []
    assert {step["action"] for step in planned} == {"create"}
    assert ai_how("plan", path, "--exit-code").returncode == 1
    done = json.loads(ai_how("up", path, "--no-wait", "--json").stdout)["steps"]
    assert sorted(done) == sorted(f"create {step['kind']} {step['key']}" for step in planned)
    assert steps(ai_how, path) == []
    said = ai_how("plan", path, "--exit-code")
    assert (said.returncode, said.stdout) == (0, "tried: nothing to do\n")


def test_a_change_names_its_fields_old_and_new_and_a_restart_whom_it_disturbs(ai_how: AiHow, write: Write) -> None:
    assert ai_how("up", write(), "--no-wait").returncode == 0
    live = steps(ai_how, write(nodes=3))
    [network] = [step for step in live if step["kind"] == "network"]
    assert (network["action"], network["class"], network["disturbs"]) == ("change", "live", [])
    [reservations] = [each for each in network["fields"] if each["field"] == "reservations"]
    assert [each["ip"] for each in reservations["new"]] == ["10.44.0.2", "10.44.0.10", "10.44.0.11"]
    assert [each["ip"] for each in reservations["old"]] == ["10.44.0.2", "10.44.0.10"]
    # Only what is asked for is different: nested values are told apart.
    exposed = write(
        network={"firewall": {"expose": [{"node": "tried-controller", "node_port": 22, "host_port": 2222}]}}
    )
    fields = {each["field"] for step in steps(ai_how, exposed) for each in step["fields"]}
    assert fields == {"policy.firewall.expose", "clusters.tried.expose"}
    moved = write(network={"subnet": "10.45.0.0/24"})
    [network] = [step for step in steps(ai_how, moved) if step["kind"] == "network"]
    assert (network["class"], network["disturbs"]) == ("restart", ["tried-compute-01", "tried-controller"])
    text = ai_how("plan", moved).stdout
    assert "~ subnet: 10.44.0.0/24 → 10.45.0.0/24" in text
    assert "restart: the network is restarted" in text.replace("(restart)", "restart")
    assert "2 nodes lose their link for a moment; disturbs tried-compute-01, tried-controller" in text


def test_up_does_not_disturb_running_nodes_without_a_yes(ai_how: AiHow, write: Write, virsh: Virsh) -> None:
    assert ai_how("up", write(), "--no-wait").returncode == 0
    moved = write(network={"subnet": "10.45.0.0/24"})
    refused = ai_how("up", moved)
    assert refused.returncode == 3
    assert "2 nodes lose their link for a moment" in refused.stderr
    assert "--yes" in refused.stderr
    assert "10.44.0.1" in virsh("net-dumpxml", "tried-network")
    # On a terminal it shows the plan, once, and asks; no is no.
    code, said = on_a_terminal(["up", str(moved), "--no-wait"], "n\n")
    assert (code, said.count("~ subnet: 10.44.0.0/24 → 10.45.0.0/24")) == (1, 1), said
    assert "Do it? [y/N]" in said
    assert "10.44.0.1" in virsh("net-dumpxml", "tried-network")
    code, said = on_a_terminal(["up", str(moved), "--no-wait"], "y\n")
    assert (code, said.count("~ subnet: 10.44.0.0/24 → 10.45.0.0/24")) == (0, 1), said
    assert "10.45.0.1" in virsh("net-dumpxml", "tried-network")


def on_a_terminal(words: list[str], answer: str) -> tuple[int, str]:
    """The exit code of `ai-how WORDS…` and what it shows on a terminal of its own, given an answer."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ai_how", *words], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    os.write(leader, answer.encode())
    said = b""
    try:
        while part := os.read(leader, 65536):
            said += part
    except OSError:  # the last end of it was closed
        pass
    finally:
        os.close(leader)
    return process.wait(COMMAND_DEADLINE), said.decode()


def test_a_plan_file_is_carried_out_and_no_other_plan(ai_how: AiHow, write: Write, virsh: Virsh, folder: Path) -> None:
    written = write()
    made = ai_how("plan", written, "-o", "plan.json")
    assert "ai-how up plan.json" in made.stderr
    assert (folder / "plan.json").stat().st_mode & 0o777 == 0o600
    # It carries its configuration: what is edited since is not what was looked at.
    write(nodes=5)
    assert ai_how("up", "plan.json", "--no-wait").returncode == 0
    assert sorted(virsh("list", "--name").split()) == ["tried-compute-01", "tried-controller"]
    stale = ai_how("up", "plan.json", "--no-wait")
    assert stale.returncode == 3
    assert "the host has changed since it was made; now it would be: nothing is left to do" in stale.stderr


def test_a_plan_is_refused_when_the_host_has_changed_since(ai_how: AiHow, write: Write, virsh: Virsh) -> None:
    assert ai_how("up", write(), "--no-wait").returncode == 0
    assert ai_how("plan", write(nodes=3), "-o", "plan.json").returncode == 0
    virsh("destroy", "tried-compute-01")
    refused = ai_how("up", "plan.json", "--no-wait")
    assert refused.returncode == 3
    assert "change domain tried-compute-01 (running differs)" in refused.stderr
    assert virsh("list", "--all", "--name").split() == ["tried-controller", "tried-compute-01"]
    virsh("start", "tried-compute-01")
    assert ai_how("up", "plan.json", "--no-wait").returncode == 0


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ({"host": "0" * 64}, "it was made on another host"),
        ({"version": "9.9.9"}, "it was made by another version of ai-how: 9.9.9"),
        ({"uri": "qemu:///session"}, "it was made for another libvirt"),
        ({"ai_how_plan": 99}, "it was made in another format"),
        ({"clusters": [{"key": "other", "digest": ""}]}, "its configuration has no cluster other"),
        ({"clusters": 7}, "is not a whole plan"),
        ({"configuration": None}, "is not a whole plan"),
        ({"configuration": "clusters: ["}, ""),
        ({"clusters": []}, "it names no cluster"),
        ({"start": "no"}, "its start is missing or wrong"),
    ],
)
def test_a_plan_from_elsewhere_is_refused(
    ai_how: AiHow, write: Write, folder: Path, edit: dict[str, Any], why: str, virsh: Virsh
) -> None:
    ai_how("plan", write(), "-o", "plan.json")
    content = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(content | edit))
    refused = ai_how("up", "plan.json", "--no-wait")
    assert refused.returncode in (2, 3)
    assert why in refused.stderr
    assert virsh("list", "--all", "--name") == ""


def test_a_plan_that_was_cut_off_is_named_as_one_and_what_editors_add_does_not_matter(
    ai_how: AiHow, write: Write, folder: Path, refused: Callable[..., str]
) -> None:
    assert ai_how("plan", write(), "-o", "plan.json").returncode == 0
    whole = (folder / "plan.json").read_bytes()
    (folder / "plan.json").write_bytes(whole[:-20])
    assert "plan.json is not a whole plan: it was cut off or edited" in refused(3, "up", "plan.json")
    (folder / "plan.json").write_bytes(b"\xef\xbb\xbf\n" + whole)
    assert ai_how("up", "plan.json", "--no-wait").returncode == 0


def test_a_plan_of_one_cluster_is_not_one_of_another(ai_how: AiHow, write: Write, folder: Path) -> None:
    ai_how("plan", write(), "-o", "plan.json")
    refused = ai_how("up", "plan.json", "--cluster", "other")
    assert refused.returncode == 2
    assert "other" in refused.stderr


def test_the_plan_of_several_clusters_is_that_of_one_after_the_other(
    ai_how: AiHow, configuration: Callable[..., dict[str, Any]], folder: Path
) -> None:
    both = {}
    for name, third in (("one", 51), ("two", 52)):
        [cluster] = configuration(
            name=name,
            nodes=1,
            network={"subnet": f"10.{third}.0.0/24", "dns_mode": "shared_dns", "host_resolver": "none"},
        )["clusters"].values()
        both[name] = cluster
    (folder / "both.yaml").write_text(json.dumps({"clusters": both}))
    ran = ai_how("plan", "both.yaml", "--json", "-o", "plan.json")
    planned = json.loads(ran.stdout)
    assert [each["cluster"] for each in planned] == ["one", "two"]
    done = json.loads(ai_how("up", "plan.json", "--no-wait", "--json").stdout)
    for plan, outcome in zip(planned, done, strict=True):
        said = [f"{step['action']} {step['kind']} {step['key']}" for step in plan["steps"]]
        assert sorted(said) == sorted(outcome["steps"])
    # The second makes the first its peer: seen before anything was there.
    assert ("change", "servers") in {(step["action"], step["kind"]) for step in planned[1]["steps"]}


def test_a_stopped_pool_is_not_started_by_looking(ai_how: AiHow, write: Write, virsh: Virsh) -> None:
    path = write()
    assert ai_how("up", path, "--no-start").returncode == 0
    virsh("pool-destroy", "ai-how-tried")
    ran = ai_how("plan", path, "--no-start", "--json")
    [step] = json.loads(ran.stdout)["steps"]
    assert (step["kind"], [each["field"] for each in step["fields"]]) == ("pool", ["active"])
    assert "ai-how-tried" not in virsh("pool-list", "--name").split()
    assert ai_how("plan", path, "--no-start", "-o", "plan.json").returncode == 0
    assert ai_how("up", "plan.json", "--no-wait").returncode == 0
    assert steps(ai_how, path, "--no-start") == []


def test_a_plan_that_cannot_be_written_is_a_clear_error(ai_how: AiHow, write: Write) -> None:
    ran = ai_how("plan", write(), "-o", "/nowhere/plan.json")
    assert ran.returncode == 2
    assert "the plan cannot be written to /nowhere/plan.json: No such file or directory" in ran.stderr


def test_a_plan_takes_the_place_of_no_link_pipe_folder_nor_of_its_configuration(
    write: Write, folder: Path, refused: Callable[..., str]
) -> None:
    written = write()
    (folder / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is, which is the whole machine's
    os.mkfifo(folder / "pipe")
    for place, why in (
        ("stdout", "this is no plain file"),
        ("pipe", "this is no plain file"),
        (folder, "this is a folder"),
        ("", "this is a folder"),
        (written, "this is its configuration"),
    ):
        assert why in refused(2, "plan", written, "-o", place)
    assert (folder / "stdout").is_symlink()
    assert "clusters:" in written.read_text()


def test_a_plan_that_starts_nodes_is_not_taken_for_one_that_does_not(
    ai_how: AiHow, write: Write, refused: Callable[..., str]
) -> None:
    assert ai_how("plan", write(), "-o", "plan.json").returncode == 0
    assert "plan.json is a plan that starts nodes" in refused(2, "up", "plan.json", "--no-start")


def test_where_a_configuration_is_wanted_a_plan_is_named_as_one(ai_how: AiHow, write: Write) -> None:
    assert ai_how("plan", write(), "-o", "plan.json").returncode == 0
    for verb in ("plan", "validate", "status"):
        ran = ai_how(verb, "plan.json")
        assert ran.returncode == 2
        assert "this is a plan, not a configuration" in ran.stdout + ran.stderr
        assert "ai-how up plan.json" in ran.stdout + ran.stderr


def test_a_configuration_may_come_through_a_pipe(write: Write) -> None:
    words = f"{sys.executable} -m ai_how up <(cat {write()}) --no-start --json"
    ran = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["cluster"] == "tried"
