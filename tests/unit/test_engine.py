"""The engine's own understanding: libvirt's capabilities, the state file, and steps that fail on their way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ai_how.engine.preflight import read_abilities
from ai_how.engine.state import Record, Run, State, Undone, Unwritten, open_state, read_state
from ai_how.errors import StateError
from ai_how.plan.plan import Plan, Step
from ai_how.resources.base import Kind, ResourceId

#: Cut from `virsh capabilities` of libvirt 9.0 on Debian 12.
CAPABILITIES = """
<capabilities>
  <host>
    <secmodel><model>none</model><doi>0</doi></secmodel>
    <secmodel><model>dac</model><doi>0</doi>
      <baselabel type='kvm'>+64055:+111</baselabel><baselabel type='qemu'>+64055:+111</baselabel>
    </secmodel>
  </host>
  <guest><os_type>hvm</os_type>
    <arch name='i686'><domain type='qemu'/><domain type='kvm'/></arch>
  </guest>
  <guest><os_type>hvm</os_type>
    <arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator><domain type='qemu'/></arch>
  </guest>
</capabilities>
"""


def test_capabilities_tell_the_kinds_of_x86_64_machines_and_qemus_user() -> None:
    able = read_abilities(CAPABILITIES)
    assert able.domain_types == {"qemu"}
    assert (able.qemu_uid, able.qemu_gid) == (64055, 111)


def test_capabilities_without_qemu_or_user_say_so() -> None:
    able = read_abilities("<capabilities><host/></capabilities>")
    assert (able.domain_types, able.qemu_uid, able.qemu_gid) == (frozenset(), None, None)


PLAN = Plan((Step(ResourceId(Kind.POOL, "ai-how-lab"), None, None),), ((),))


def test_a_run_is_on_disk_before_its_first_step_and_gone_after_its_last(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with open_state(path) as state:
        state.begin("lab", "qemu:///system", "up", PLAN)
        run = read_state(path)["lab"].run
        assert run is not None
        assert (run.verb, run.steps) == ("up", ("create pool ai-how-lab",))
        state.finish("lab")
        assert read_state(path) == {"lab": Record("lab", "qemu:///system")}
    assert list(tmp_path.iterdir()) == [path]


def test_the_last_cluster_takes_the_state_file_with_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with open_state(path) as state:
        state.remember("one", "qemu:///system")
        state.remember("two", "qemu:///system")
        state.forget("one")
        assert read_state(path).keys() == {"two"}
        state.forget("two")
        state.forget("never there")
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    records = {
        "one": Record("one", "qemu:///system", Run("up", "2026-01-02T03:04:05+00:00", ("create pool x", "…"))),
        "two": Record("two", "qemu:///session"),
        "four": Record("four", "qemu:///system", undone=Undone("2026-01-02T03:04:05+00:00", "nobody said a word")),
    }
    state = State(path, dict(records))
    state.remember("three", "qemu:///system")
    assert read_state(path) == records | {"three": Record("three", "qemu:///system")}


def test_a_file_from_before_there_were_guards_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    entry = {"name": "lab", "uri": "qemu:///system", "run": None}
    path.write_text(json.dumps({"version": 1, "clusters": {"lab": entry}}))
    assert read_state(path) == {"lab": Record("lab", "qemu:///system")}


def test_what_was_undone_is_remembered_until_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    undone = Undone("2026-01-02T03:04:05+00:00", "nobody said a word", trouble="libvirt is away")
    with open_state(path) as state:
        state.note_undone("lab", "qemu:///system", undone)
        assert read_state(path) == {"lab": Record("lab", "qemu:///system", undone=undone)}
        state.begin("lab", "qemu:///system", "up", PLAN)
        assert read_state(path)["lab"].undone is None


def test_a_state_that_is_written_nowhere_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("somebody's")
    state = Unwritten(path)
    state.begin("lab", "qemu:///system", "up", PLAN)
    state.finish("lab")
    assert state.clusters == {"lab": Record("lab", "qemu:///system")}
    state.forget("lab")
    assert path.read_text() == "somebody's"


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "7", "[]", '{"version": 1}', '{"version": 1, "clusters": []}', '{"clusters": {"a": {}}}'],
)
def test_a_file_of_another_shape_is_refused_with_the_way_out(content: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(StateError, match="cannot be read") as caught:
        read_state(path)
    assert f"mv {path} {path}.bad" in caught.value.remedy
    assert path.read_text() == content


def test_a_file_of_a_newer_version_is_told_from_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"version": 2, "clusters": {"lab": {"shape": "unknown"}}}))
    with pytest.raises(StateError, match="is of version 2: this ai-how understands versions up to 1"):
        read_state(path)


def test_a_directory_that_is_missing_is_no_bug(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be locked"), open_state(tmp_path / "missing" / "state.json"):
        pass
