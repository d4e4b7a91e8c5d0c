"""The outside of a lab: open one, run commands in it, close it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ai_how.errors import HostError, PrivilegeError, UsageError
from ai_how.host.files import own_cache
from ai_how.lab.mounts import PRIVATE_DIRECTORIES
from ai_how.lab.needs import search_path, unavailable
from ai_how.lab.spec import LabSpec

_READY_DEADLINE = 120.0  # seconds; process 1 has shorter ones of its own and says which of them passed
_CLOSE_DEADLINE = 20.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid

#: Variables that would lead a command out of the lab, to a proxy, another libvirt or a daemon of the host.
_OUTSIDE_VARIABLES = frozenset(
    {
        *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
        *("virsh_default_connect_uri", "dbus_system_bus_address", "dbus_session_bus_address"),
        *("xdg_runtime_dir", "notify_socket", "listen_fds", "listen_pid", "listen_fdnames"),
    }
)


def inside() -> bool:
    """Whether this process runs in a lab."""
    return os.environ.get("AI_HOW_LAB") == "1"


def has_internet() -> bool:
    """Whether this process runs in a lab with the pretend internet."""
    return inside() and os.environ.get("AI_HOW_LAB_INTERNET") == "1"


@dataclass(frozen=True, slots=True)
class Lab:
    """An open lab. `pid` is its process 1 as seen from outside; `environment` is what its commands get."""

    spec: LabSpec
    pid: int
    environment: Mapping[str, str] = field(repr=False)

    def enter(self, argv: Sequence[str], *, cwd: Path | None = None) -> list[str]:
        """The command line that runs `argv` inside, for anything that starts processes; give it `environment`.

        A signal to that process reaches the command, and if it is killed so is the command.
        """
        program = Path(__file__).with_name("enter.py")
        return [sys.executable, "-I", "-S", str(program), str(self.pid), str(cwd or Path.cwd()), *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = False,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        text: str | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` inside and keep what it says. `env` adds variables, `text` is its standard input."""
        return subprocess.run(
            self.enter(argv, cwd=cwd),
            check=check,
            env={**self.environment, **(env or {})},
            input=text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@contextlib.contextmanager
def open_lab(spec: LabSpec | None = None) -> Iterator[Lab]:
    """A lab for the length of a `with` block, its libvirtd answering. Everything in it dies at the end of the block,
    and also when this process is killed.

    Raises PrivilegeError, HostError (what is missing, or what failed inside) or UsageError (a wrong `libvirt_root`).
    """
    spec = spec or LabSpec()
    if (problem := unavailable(spec)) is not None:
        raise problem
    environment = _environment(spec)
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as said:
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            outer = subprocess.Popen(
                _start_command(spec, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # a Ctrl-C at the terminal is for the command, not for the lab
            )
        try:
            yield Lab(spec, _await_ready(ours, outer, said.fileno()), environment)
        finally:
            ours.close()
            _end(outer)


def run(
    command: Sequence[str],
    *,
    internet: bool = False,
    libvirt_root: Path | None = None,
    env: Mapping[str, str] | None = None,
    reads: Sequence[Path] = (),
) -> int:
    """Run `command` in a lab of its own, on this terminal, and return its exit code (128 + N for signal N).

    SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to it, so call this from the main thread. `reads` are files that
    it needs. Raises as `open_lab`, and UsageError where they or the working directory would not be there.
    """
    for each in (Path.cwd(), *reads):
        _refuse_hidden(each)
    with open_lab(LabSpec(internet=internet, libvirt_root=libvirt_root, cache=cache_directory())) as lab:
        return _attached(lab, command, {**lab.environment, **(env or {})})


def _refuse_hidden(path: Path) -> None:
    real = path.resolve()
    for private in PRIVATE_DIRECTORIES:
        if real.is_relative_to(private.resolve()):
            raise UsageError(
                f"{path} is not in a lab",
                why=f"of {private} it has one of its own, empty at first",
                remedy="Work in another directory, your home say.",
            )


def cache_directory() -> Path | None:
    """Where labs keep what libvirtd learnt about QEMU; None where there is no directory of our own to keep it in."""
    own = own_cache()
    return None if own is None else own / "lab"


def _environment(spec: LabSpec) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.lower() not in _OUTSIDE_VARIABLES}
    kept["PATH"] = search_path()
    kept["LIBVIRT_DEFAULT_URI"] = "qemu:///system"
    kept["AI_HOW_LAB"] = "1"
    kept["AI_HOW_LAB_INTERNET"] = "1" if spec.internet else "0"
    return kept


def _start_command(spec: LabSpec, descriptor: int) -> list[str]:
    # Bare of site-packages: process 1 needs the standard library and this package, and is up in half the time.
    code = (
        f"import sys; sys.path.insert(0, {str(_PACKAGE_ROOT)!r}); from ai_how.lab.init import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    return [
        *("unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
        *(sys.executable, "-I", "-S", "-c", code, spec.to_json(), str(descriptor)),
    ]


def _await_ready(ours: socket.socket, outer: subprocess.Popen[bytes], said: int) -> int:
    """Process 1's PID in our namespace, which the kernel attaches to its first message (unix(7), SCM_CREDENTIALS)."""
    ours.settimeout(_READY_DEADLINE)
    pid, line = 0, b""
    try:
        while not line.endswith(b"\n"):
            data, ancillary, _, _ = ours.recvmsg(65536, socket.CMSG_SPACE(_CREDENTIALS.size))
            if not data:
                break
            line += data
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    pid = _CREDENTIALS.unpack(content)[0]
    except TimeoutError as error:
        raise HostError("the lab did not start", why=f"no word from it in {_READY_DEADLINE:.0f} s") from error
    if not line:
        outer.wait()
        reason = os.pread(said, 65536, 0).decode(errors="replace").strip()
        if "Operation not permitted" in reason:
            raise PrivilegeError(
                "the lab cannot make namespaces",
                why=reason,
                remedy="in a container, start it privileged (CAP_SYS_ADMIN)",
            )
        raise HostError("the lab did not start", why=reason or f"it ended with {outer.returncode}")
    message = json.loads(line)
    if error_told := message.get("error"):
        raise HostError(error_told["what"], why=error_told["why"], remedy=error_told["remedy"])
    return pid


def _end(outer: subprocess.Popen[bytes]) -> None:
    """Process 1 ends as its socket is closed; should it not, killing its parent kills it (--kill-child)."""
    try:
        outer.wait(_CLOSE_DEADLINE)
    except subprocess.TimeoutExpired:
        outer.kill()
        outer.wait()


def _attached(lab: Lab, command: Sequence[str], environment: Mapping[str, str]) -> int:
    terminal = 0 if _in_foreground(0) else None

    def pass_on(number: int, _: FrameType | None) -> None:
        typed = number in (signal.SIGINT, signal.SIGQUIT) and _in_foreground(0)
        if not typed:  # what is typed at the terminal goes to the command, too
            entered.send_signal(number)

    passed = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    # Held back until they are passed on: the command may be at work before we come to it, and must not outlive us.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, passed)
    try:
        entered = subprocess.Popen(lab.enter(command), env=environment)
        before = {number: signal.signal(number, pass_on) for number in passed}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        code = entered.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if terminal is not None:
            _take_back(terminal)
    return 128 - code if code < 0 else code


def _in_foreground(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False


def _take_back(terminal: int) -> None:
    """An interactive shell inside took the terminal, and cannot give it back: it does not know our process group."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        os.tcsetpgrp(terminal, os.getpgrp())
    except OSError:
        pass
    finally:
        signal.signal(signal.SIGTTOU, before)
