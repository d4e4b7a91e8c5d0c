"""A bundle holds a host's verdict, for its owner alone; what is read back is data of strangers."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.doctor_facts import NETWORK_XML, capture, parts

from ai_how.diagnose import bundle
from ai_how.diagnose.bundle import judge_file, read_bundle, write_bundle
from ai_how.diagnose.capture import Capture
from ai_how.diagnose.causes import Diagnosis
from ai_how.diagnose.doctor import judge
from ai_how.diagnose.facts import Part
from ai_how.diagnose.question import Question
from ai_how.errors import HostError, UsageError

URI = "qemu:///system"
Host = Callable[[Capture], None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Makes a capture be what this host says."""

    def say(said: Capture) -> None:
        monkeypatch.setattr(bundle, "gather", lambda uri, question, state: said)
        monkeypatch.setattr(bundle, "logs", lambda: {"/var/log/x.log": "password=hunter2\n", "../../evil": "x"})

    say(capture())
    return say


def _bundle(path: Path, capture_json: Any, *more: tarfile.TarInfo) -> Path:
    """A bundle that somebody made by hand, of bytes or of JSON data."""
    content = capture_json if isinstance(capture_json, bytes) else json.dumps(capture_json).encode()
    with tarfile.open(path, "w:gz") as archive:
        for each in more:
            archive.addfile(each)
        entry = tarfile.TarInfo("capture.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return path


def _data(**changed: Any) -> dict[str, Any]:
    return {"version": 1, "parts": {part.value: data for part, data in parts(**changed).items()}, "missing": {}}


def _members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {each.name: file.read() for each in archive if (file := archive.extractfile(each))}


def _refused(path: Path, why: str = ".") -> None:
    folder = path.parent
    before = sorted(folder.iterdir())
    with pytest.raises(UsageError, match=why):
        judge_file(path, ())
    assert sorted(folder.iterdir()) == before  # nothing is unpacked


def _said(diagnosis: Diagnosis) -> str:
    return json.dumps(diagnosis.to_json())


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(capture(), id="rules are gone"),
        pytest.param(capture(settings={"net/ipv4/ip_forward": "0"}, processes=[]), id="several"),
        pytest.param(Capture(parts(firewall=None), {Part.FIREWALL: "only root may see them"}), id="not all seen"),
        pytest.param(Capture({}, {Part.LIBVIRT: "not there"}), id="nothing"),
    ],
)
def test_the_verdict_is_the_same_after_reading_back(tmp_path: Path, host: Host, said: Capture) -> None:
    host(said)
    write_bundle(tmp_path / "b.tar.gz", URI)
    assert _said(judge_file(tmp_path / "b.tar.gz", ())) == _said(judge(said, Question()))


def test_a_question_can_be_asked_of_a_bundle(tmp_path: Path, host: Host) -> None:
    write_bundle(tmp_path / "b", URI)
    assert judge_file(tmp_path / "b", ("network", "nope")).causes[0].id == "network-undefined"
    with pytest.raises(UsageError):
        judge_file(tmp_path / "b", ("moon",))


def test_a_bundle_is_for_its_owner_alone_and_replaces_an_older_one(tmp_path: Path, host: Host) -> None:
    path = tmp_path / "b"
    path.write_text("old")
    path.chmod(0o666)
    write_bundle(path, URI)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["b"]
    with tarfile.open(path) as archive:
        assert {each.mode for each in archive} == {0o600}


def test_a_bundle_has_no_secret_and_says_how_many_were_removed(tmp_path: Path, host: Host) -> None:
    xml = NETWORK_XML.replace("</name>", "</name><metadata><x token='geheim42'/></metadata>")
    host(capture(networks=[{**parts()[Part.NETWORKS][0], "live": xml, "saved": xml}]))
    made = write_bundle(tmp_path / "b", URI)
    held = _members(tmp_path / "b")
    assert made.removed == 3
    assert set(made.members) == set(held)
    assert not any(secret in content for content in held.values() for secret in (b"hunter2", b"geheim42"))


def test_a_bundle_has_what_people_look_at_under_names_that_lead_nowhere(tmp_path: Path, host: Host) -> None:
    write_bundle(tmp_path / "b", URI)
    held = _members(tmp_path / "b")
    assert {"verdict.txt", "verdict.json", "networks/default.live.xml", "machines/node.saved.xml"} <= set(held)
    assert {"host/links.json", "host/firewall.json", "logs/var_log_x.log", "logs/evil"} <= set(held)
    assert not any(".." in name or name.startswith("/") for name in held)


@pytest.mark.parametrize("place", ["missing/b", ".", "link", "fifo"])
def test_a_place_that_cannot_be_written_is_a_host_error_and_leaves_no_half_file(
    tmp_path: Path, host: Host, place: str
) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(HostError, match="cannot be written"):
        write_bundle(tmp_path / place, URI)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "target").read_text() == "mine"


def test_a_write_that_fails_half_way_leaves_the_old_bundle_and_no_half_file(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "b").write_text("old")
    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(HostError, match="No space left"):
        write_bundle(tmp_path / "b", URI)
    assert [each.name for each in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "old"


# ---- what is no bundle ------------------------------------------------------------------------------------------


def test_a_good_bundle_by_hand_is_read(tmp_path: Path) -> None:
    assert read_bundle(_bundle(tmp_path / "b", _data()))["version"] == 1


@pytest.mark.parametrize("content", [b"", b"no tar", gzip.compress(b"no tar"), gzip.compress(b""), b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b").write_bytes(content)
    _refused(tmp_path / "b", "is no support bundle")


def test_what_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "nothing", "No such file")
    _refused(tmp_path, "Is a directory")


def test_an_archive_cut_off_or_damaged_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    whole = _bundle(tmp_path / "b", _data()).read_bytes()
    for at in range(0, len(whole) - 40, 97):
        (tmp_path / "b").write_bytes(whole[:at])
        _refused(tmp_path / "b", "is no support bundle")
        (tmp_path / "b").write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
        try:
            judge_file(tmp_path / "b", ())
        except UsageError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"5", b"null", b"{}", b'{"version": 1}',
        b'{"version": 1, "parts": []}', b'{"version": 2, "parts": {}}', b'{"version": "1", "parts": {}}',
        b'{"parts": {}}',
    ],
)  # fmt: skip
def test_json_of_another_kind_or_version_is_refused(tmp_path: Path, data: bytes) -> None:
    _refused(_bundle(tmp_path / "b", data))


@pytest.mark.parametrize("garbage", [None, 5, "x", [], {}, [[]], {"a": []}, [{"live": 1}], {"now": {}}])
def test_parts_of_another_shape_are_not_looked_at(tmp_path: Path, garbage: Any) -> None:
    for part in Part:
        diagnosis = judge_file(_bundle(tmp_path / "b", _data(**{part.value: garbage})), ())
        assert diagnosis.exit_code in (1, 3)  # libvirt's rules are missing, or could not be looked at


def test_a_bundle_without_parts_is_not_healthy(tmp_path: Path) -> None:
    for data in ({"version": 1, "parts": {}}, {"version": 1, "parts": {"moon": 5}, "missing": [5]}):
        assert judge_file(_bundle(tmp_path / "b", data), ()).exit_code == 3


def test_a_member_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_MOST", 1000)
    _refused(_bundle(tmp_path / "b", _data()), "is larger than")


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "capture.json", "real.json", "../x"])
def test_a_capture_that_is_no_file_is_refused(tmp_path: Path, target: str, kind: bytes) -> None:
    _refused(_bundle(tmp_path / "b", _data(), _link("capture.json", target, kind)), "has no file")


@pytest.mark.parametrize(
    "name", ["../capture.json", "/capture.json", "./x/../capture.json", "a/capture.json", "capture.JSON"]
)
def test_a_capture_elsewhere_is_none(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "b", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    _refused(tmp_path / "b", "has no file")


def test_members_with_names_that_lead_out_are_never_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    evil = [tarfile.TarInfo("../evil"), tarfile.TarInfo(f"{tmp_path}/evil"), _link("out", "/etc")]
    judge_file(_bundle(folder / "b", _data(), *evil), ())
    assert [each.name for each in tmp_path.iterdir()] == ["in"]
    assert [each.name for each in folder.iterdir()] == ["b"]
