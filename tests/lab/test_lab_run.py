"""Commands in a lab: their exit codes, signals, terminal, orphans; what is said when there can be no lab."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.waiting import until

from ai_how import lab
from ai_how.errors import HostError, UsageError
from ai_how.lab import Lab

RUN = "import sys; from ai_how.lab import run; sys.exit(run(sys.argv[1:]))"
#: Prints the class and text of the error, as a caller that is not root.
AS_NOBODY = """
import os
from ai_how.errors import AiHowError
from ai_how.lab import run
os.setuid(65534)
try:
    run(["true"])
    print("opened")
except AiHowError as error:
    print(type(error).__name__, error.exit_code, error)
"""
OPEN = """
from ai_how.errors import AiHowError
from ai_how.lab import open_lab
try:
    with open_lab():
        print("opened")
except AiHowError as error:
    print(type(error).__name__, error.exit_code, error)
"""
DEADLINE = 300.0  # seconds, on a busy machine

NETWORK = """
<network><name>{name}</name><bridge name='br-same' stp='off' delay='0'/>
  <ip address='10.9.6.1' netmask='255.255.255.0'/></network>
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        python(RUN, *command),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_exit_code_is_the_commands(script: str, code: int) -> None:
    process = start("sh", "-c", script)
    assert (process.wait(DEADLINE), process.communicate()[0]) == (code, "")


def test_the_command_line_passes_everything_on_and_ends_as_the_command() -> None:
    argv = [sys.executable, "-m", "ai_how", "lab", "run", "--", "sh", "-c", 'echo "$@"; exit 7', "sh", "-v", "--json"]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "-v --json\n", "")


@pytest.mark.parametrize(("required", "outcome", "code"), [("", "skipped", 0), ("vms,lab", "error", 1)])
def test_without_a_lab_its_tests_say_why_and_fail_where_it_is_required(required: str, outcome: str, code: int) -> None:
    hide = 'mount --bind /dev/null $(command -v libvirtd); unset AI_HOW_LAB; exec "$@"'
    tests = str(Path(__file__).with_name("test_lab_internet.py"))
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "-k", "both_resolvers"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", hide, "sh", *pytest_run],
        env={**environment(), "AI_HOW_REQUIRE": required},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert f"1 {outcome}" in done.stdout
    assert "a lab needs libvirtd: not found on this host" in done.stdout


def test_a_command_that_is_not_there_ends_with_127() -> None:
    process = start("no-such-command")
    assert process.wait(DEADLINE) == 127
    assert "no-such-command" in process.communicate()[0]


def test_where_a_lab_has_a_directory_of_its_own_no_command_is_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir("/var/lib/libvirt")
    with pytest.raises(UsageError, match="/var/lib/libvirt is not in a lab"):
        lab.run(["touch", str(tmp_path / "begun")])
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_outer_process_reaches_the_command(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    process = start("sh", "-c", f"trap 'echo caught; exit 5' {name}; echo ready; while :; do sleep 0.02; done")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert (process.wait(DEADLINE), process.stdout.read()) == (5, "caught\n")


def test_control_c_at_the_terminal_reaches_the_command_once() -> None:
    script = "trap 'echo caught; n=1' INT; echo ready; until [ $n ]; do sleep 0.02; done; sleep 0.3; exit 9"
    child, terminal = on_terminal("sh", "-c", script)
    assert "ready" in read_until(terminal, "ready")
    os.write(terminal, b"\x03")
    said = read_until(terminal, None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert said.count("caught") == 1


def test_an_interactive_shell_has_job_control_and_the_terminal_comes_back() -> None:
    then = "import os; print('back', os.tcgetpgrp(0) == os.getpgrp())"
    child, terminal = on_terminal("bash", "--norc", "-i", then=then)
    os.write(terminal, b"sh -c 'echo sta\"\"rted; exec sleep 100'\n")
    read_until(terminal, "started")
    os.write(terminal, b"\x1a")
    read_until(terminal, "Stopped")
    os.write(terminal, b"echo lab=$AI_HOW_LAB; exit 3\nexit 3\n")
    said = read_until(terminal, None)
    os.waitpid(child, 0)
    assert "lab=1" in said
    assert "back True" in said


def test_orphans_are_reaped(nested_lab: Callable[..., Lab]) -> None:
    orphan = (
        "import os, sys, time\n"
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        while os.getppid() != 1: pass\n"
        "        os.write(writer, str(os.getpid()).encode()); os._exit(0)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "pid = os.read(reader, 9).decode()\n"
        f"end = time.monotonic() + {DEADLINE}\n"
        "while os.path.exists('/proc/' + pid) and time.monotonic() < end: pass\n"
        "print('there' if os.path.exists('/proc/' + pid) else 'gone')\n"
    )
    assert nested_lab().run(python(orphan)).stdout == "gone\n"


def test_a_command_that_takes_too_long_is_not_left_running(nested_lab: Callable[..., Lab]) -> None:
    one = nested_lab()
    with pytest.raises(subprocess.TimeoutExpired):
        one.run(["sh", "-c", "exec sleep 4711"], timeout=1)
    until(lambda: "sleep 4711" not in one.run(["ps", "ax"]).stdout, "the end of the command")
    assert "libvirtd" in one.run(["ps", "ax"]).stdout


def test_two_labs_side_by_side_do_not_see_each_other(nested_lab: Callable[..., Lab]) -> None:
    labs = {"one": nested_lab(), "two": nested_lab()}
    for name, one in labs.items():
        define = one.run(["virsh", "net-create", "/dev/stdin"], text=NETWORK.format(name=name))
        assert define.returncode == 0, define.stderr
    for name, one in labs.items():
        assert one.run(["virsh", "net-list", "--name"]).stdout.split() == [name]


def test_a_lab_works_in_a_lab_in_a_lab(nested_lab: Callable[..., Lab]) -> None:
    done = nested_lab().run(python(RUN, "virsh", "uri"), env={"PYTHONPATH": environment()["PYTHONPATH"]})
    assert (done.stdout.strip(), done.stderr) == ("qemu:///system", "")


def test_files_of_the_caller_are_the_real_ones(nested_lab: Callable[..., Lab], tmp_path: Path) -> None:
    done = nested_lab().run(["sh", "-c", "pwd; echo from inside > made"], cwd=tmp_path)
    assert (done.stdout.strip(), (tmp_path / "made").read_text()) == (str(tmp_path), "from inside\n")


def test_variables_that_lead_out_are_not_passed_in(
    nested_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu+ssh://elsewhere/system")
    monkeypatch.setenv("KEPT", "yes")
    seen = nested_lab().run(["env"]).stdout.splitlines()
    assert not [line for line in seen if "proxy" in line.lower()]
    assert {"LIBVIRT_DEFAULT_URI=qemu:///system", "KEPT=yes", "AI_HOW_LAB=1"} <= set(seen)


def test_settings_of_the_kernel_outside_the_network_cannot_be_written(nested_lab: Callable[..., Lab]) -> None:
    one = nested_lab()
    write = "echo 1 > /proc/sys/{}"
    assert one.run(["sh", "-c", write.format("net/ipv4/ip_forward")]).returncode == 0
    assert "Read-only" in one.run(["sh", "-c", write.format("vm/swappiness")]).stderr


def test_a_second_lab_need_not_ask_qemu_again(tmp_path: Path) -> None:
    spec = lab.LabSpec(cache=tmp_path / "cache")
    with lab.open_lab(spec) as first:
        assert first.run(["virsh", "domcapabilities"]).returncode == 0
    kept = {path.name: path.read_bytes() for path in tmp_path.rglob("*.xml")}
    assert kept
    with lab.open_lab(spec) as second:
        look = ["sh", "-c", "stat -c '%n %i %y' /var/cache/libvirt/qemu/capabilities/*"]
        given = second.run(look).stdout
        assert second.run(["virsh", "domcapabilities"]).returncode == 0
        assert second.run(look).stdout == given
    assert len(given.splitlines()) == len(kept)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.xml")} == kept


def test_a_broken_cache_is_no_harm(tmp_path: Path) -> None:
    spec = lab.LabSpec(cache=tmp_path / "cache")
    with lab.open_lab(spec) as first:
        first.run(["virsh", "domcapabilities"], check=True)
    for path in tmp_path.rglob("*.xml"):
        path.write_text("<qemuCaps><not")
    with lab.open_lab(spec) as second:
        assert second.run(["virsh", "domcapabilities"]).returncode == 0


def test_without_root_the_error_says_so_and_names_the_command() -> None:
    """Its home is unreadable to it, as it is under some ways of becoming another user."""
    unreadable = {**environment(), "HOME": "/root"}
    said = subprocess.run(python(AS_NOBODY), env=unreadable, capture_output=True, text=True, check=True).stdout
    assert said.startswith("PrivilegeError 4 a lab needs root: it makes its own namespaces")
    assert "\nrun: sudo " in said


def test_missing_programs_are_named_with_their_packages() -> None:
    said = with_mount("mount --bind /dev/null $(command -v libvirtd); mount --bind /dev/null $(command -v dnsmasq)")
    assert said == (
        "HostError 3 a lab needs libvirtd, dnsmasq: not found on this host\n"
        "install: apt-get install dnsmasq-base libvirt-daemon-system\n"
    )


def test_a_libvirtd_that_fails_is_quoted() -> None:
    said = with_mount(
        "printf '#!/bin/sh\\necho no such luck >&2\\nexit 6\\n' > /run/failing; chmod +x /run/failing;"
        "mount --bind /run/failing $(command -v libvirtd)"
    )
    Path("/run/failing").unlink()
    assert said == "HostError 3 the lab's libvirtd ended with 6: no such luck\n"


def test_without_the_right_to_make_namespaces_the_error_says_so() -> None:
    said = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *python(OPEN)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith("PrivilegeError 4 the lab cannot make namespaces: unshare: ")
    assert "CAP_SYS_ADMIN" in said


def test_a_directory_without_a_libvirt_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no libvirt: there is no .*/usr/sbin/libvirtd"):
        lab.run(["true"], libvirt_root=tmp_path)


def test_the_other_libvirt_runs_from_its_directory(nested_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """A copy of the system's with a mark appended, which loaders ignore, to tell the two apart."""
    patterns = ("usr/sbin/libvirtd", "usr/lib/*/libvirt*.so.0.*", "usr/lib/*/libvirt/**/*.so", "usr/lib/libvirt/*")
    files = [path for pattern in patterns for path in Path("/").glob(pattern) if path.is_file()]
    for path in files:
        copy = tmp_path / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes() + b"marked")
        copy.chmod(0o755)
    one = nested_lab(libvirt_root=tmp_path)
    assert one.run(["virsh", "list"]).returncode == 0
    assert one.run(["sh", "-c", "tail -c 6 /proc/$(cat /run/libvirtd.pid)/exe"]).stdout == "marked"
    loaded = one.run(["sh", "-c", "grep -o '/.*libvirt.*[.]so.*' /proc/$(cat /run/libvirtd.pid)/maps | sort -u"]).stdout
    assert len(loaded.split()) > 3
    for library in loaded.split():
        assert one.run(["tail", "-c", "6", library]).stdout == "marked"
    assert Path(files[0]).read_bytes()[-6:] != b"marked"


def test_a_libvirt_that_cannot_be_merged_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "with:colon"
    (root / "usr/sbin").mkdir(parents=True)
    (root / "usr/sbin/libvirtd").touch()
    with pytest.raises(HostError, match="cannot be used in a lab: its name has a colon"):
        lab.run(["true"], libvirt_root=root)


def with_mount(script: str) -> str:
    """What opening a lab says after `script` changed the mounts, in a mount namespace of its own."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh", *python(OPEN)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def on_terminal(*command: str, then: str = "") -> tuple[int, int]:
    """Start `run(command)` on a terminal of its own: PID and our end of the terminal."""
    code = f"import sys; from ai_how.lab import run; code = run(sys.argv[1:]); {then or 'pass'}; sys.exit(code)"
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, python(code, *command), environment())  # noqa: S606 - a shell is not wanted
    return child, terminal


def read_until(terminal: int, text: str | None) -> str:
    """What the terminal shows up to `text`, or to the end."""
    said = ""
    end = time.monotonic() + DEADLINE
    while text is None or text not in said:
        readable, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert readable, f"nothing more came: {said}"
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            break
        said += data.decode()
    return said
