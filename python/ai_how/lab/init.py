"""Process 1 of a lab: builds it, reports, reaps orphans, and ends it.

`session` starts it under unshare(1) with a LabSpec and one end of a socket pair. Over that goes one JSON line,
`{"ready": …}` or `{"error": …}`. When the other end is closed, by intent or because its owner died, process 1 ends,
and with it the kernel ends every process of the lab.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from ai_how.errors import AiHowError, HostError
from ai_how.host.process import output
from ai_how.lab import internet, mounts
from ai_how.lab.spec import LabSpec

_LIBVIRTD_DEADLINE = 60.0  # seconds
_LIBVIRTD_SOCKET = Path("/run/libvirt/libvirt-sock")
_LIBVIRTD_SAID = mounts.LAB_DIRECTORY / "libvirtd.stderr"
_LIBVIRTD_LOG = Path("/var/log/libvirt/libvirtd.log")
#: Where libvirtd keeps what it learnt by asking QEMU. It discards entries itself when QEMU, libvirt or the CPU changed.
_LEARNT = Path("/var/cache/libvirt/qemu/capabilities")


def main(argv: list[str]) -> int:
    """Be process 1 until the outside lets go."""
    spec, outside = LabSpec.from_json(argv[0]), socket.socket(fileno=int(argv[1]))
    outside.set_inheritable(False)
    children = _child_signals()
    try:
        mounts.build(
            nameserver=str(internet.INTERNET.resolvers[0]) if spec.internet else None,
            libvirt_root=spec.libvirt_root,
        )
        if (store := _store(spec.cache)) is not None:
            _restore_learnt(store)
        _prepare_network()
        libvirtd = _start_libvirtd()
        if spec.internet:
            internet.start(mounts.LAB_DIRECTORY)
        _await_libvirtd(libvirtd, children)
    except AiHowError as error:
        _tell(outside, {"error": {"what": error.what, "why": error.why, "remedy": error.remedy}})
        return 1
    _tell(outside, {"ready": {}})
    _reap_until_closed(outside, children)
    if store is not None:
        _keep_learnt(store)
    return 0


def _tell(outside: socket.socket, message: dict[str, object]) -> None:
    outside.sendall(json.dumps(message).encode() + b"\n")


def _child_signals() -> socket.socket:
    """A socket that becomes readable when a child has ended."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    return reader


def _reap() -> dict[int, int]:
    """Collect every child that has ended, PID → exit code. Orphans come to process 1, and libvirtd waits 30 s on each
    one that nobody collects."""
    ended: dict[int, int] = {}
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    except ChildProcessError:
        pass
    return ended


def _reap_until_closed(outside: socket.socket, children: socket.socket) -> None:
    _reap()
    while True:
        readable, _, _ = select.select([outside, children], [], [])
        if children in readable:
            children.recv(4096)
            _reap()
        if outside in readable:
            return


def _prepare_network() -> None:
    output(["ip", "link", "set", "lo", "up"])
    # A new namespace may inherit the host's setting; a lab starts as a host that forwards nothing.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")


def _start_libvirtd() -> int:
    """Its PID; it stays in the foreground. Not by `subprocess`, which would collect its end behind our back."""
    said = str(_LIBVIRTD_SAID)
    return os.posix_spawnp(
        "libvirtd",
        ["libvirtd"],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # ignored by Python
    )


def _await_libvirtd(pid: int, children: socket.socket) -> None:
    """Until it answers a question, which it does once all its drivers are loaded."""
    deadline = time.monotonic() + _LIBVIRTD_DEADLINE
    state = f"did not answer in {_LIBVIRTD_DEADLINE:.0f} s"
    asked: socket.socket | None = None
    with contextlib.ExitStack() as stack:
        while (left := deadline - time.monotonic()) > 0:
            if asked is None and (asked := _ask(_LIBVIRTD_SOCKET)) is not None:
                stack.enter_context(asked)
            # Nothing says when the socket appears, so it is tried again every 2 ms; the answer is waited for.
            readable, _, _ = select.select([children, *([asked] if asked else [])], [], [], left if asked else 0.002)
            if asked in readable and asked is not None and asked.recv(4):
                return
            if children in readable:
                children.recv(4096)
            if (code := _reap().get(pid)) is not None:
                state = f"ended with {code}"
                break
    said = [path.read_text().strip() for path in (_LIBVIRTD_SAID, _LIBVIRTD_LOG) if path.exists()]
    raise HostError(f"the lab's libvirtd {state}", why="\n".join(filter(None, said)) or "it said nothing")


def _ask(path: Path) -> socket.socket | None:
    """Ask which authentication it wants, the first call of every client (libvirt's remote_protocol.x)."""
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.connect(str(path))
    except OSError:
        probe.close()
        return None
    program, version, auth_list = 0x20008086, 1, 66
    probe.sendall(struct.pack(">7I", 28, program, version, auth_list, 0, 0, 0))
    return probe


def _store(cache: Path | None) -> Path | None:
    """Where the cache keeps what this very libvirtd learnt."""
    program = shutil.which("libvirtd")
    if cache is None or program is None:
        return None
    seen = Path(program).stat()
    name = hashlib.sha256(f"{seen.st_size} {seen.st_mtime_ns}".encode()).hexdigest()
    return cache / name[:16]


def _restore_learnt(store: Path) -> None:
    _LEARNT.mkdir(parents=True)
    if store.is_dir():
        for entry in store.glob("*.xml"):
            shutil.copyfile(entry, _LEARNT / entry.name)


def _keep_learnt(store: Path) -> None:
    """Best effort, by intent: without the cache the next lab only asks QEMU again (1.4 s)."""
    with contextlib.suppress(OSError):
        store.mkdir(parents=True, exist_ok=True)
        for entry in _LEARNT.glob("*.xml"):
            content, target = entry.read_bytes(), store / entry.name
            # libvirtd may have been writing; and a copy that says the same need not be written again.
            if not content.rstrip().endswith(b"</qemuCaps>") or (target.exists() and target.read_bytes() == content):
                continue
            draft = store / f"{entry.name}.{os.urandom(8).hex()}"
            draft.write_bytes(content)
            draft.replace(target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
