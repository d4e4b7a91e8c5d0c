"""`ai-how` as a process of its own whose modules are loaded already, which is most of what a short command costs.

A server, started once and before it has threads or connections, loads everything and waits on a socket. For each call
it is handed the words, the environment, the directory and the three standard files, and forks: the child is as fresh as
a new `python -m ai_how`, in its own process, with its own exit code. Run as a program, this is the server.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Longer than what a call is asked with: its words and the environment.
_LONGEST = 1 << 20
#: This one runs when it is loaded.
_RUNS = "ai_how.__main__"


class Loaded:
    """The server, and calls of it from any thread."""

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / "loaded.sock")
        ready, there = os.pipe()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.loaded", self._address, str(there)],
            pass_fds=[there],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
        )
        os.close(there)
        with os.fdopen(ready) as said:
            assert said.read() == "ready", "the server of loaded processes does not start"

    def run(
        self, words: list[str], *, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """The command, run to its end in this process' directory, with nothing on its standard input."""
        argv = ["ai-how", *words]
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            Path(os.devnull).open() as nothing,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as call,
        ):
            call.settimeout(timeout)
            call.connect(self._address)
            call.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
            asked = json.dumps({"argv": argv, "environment": dict(environment), "directory": str(Path.cwd())})
            socket.send_fds(call, [asked.encode()], [nothing.fileno(), out.fileno(), err.fileno()])
            pid = int(call.recv(64))
            try:
                code = int(call.recv(64))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(argv, timeout) from None
            said = []
            for each in (out, err):
                each.seek(0)
                said.append(each.read().decode())
        return subprocess.CompletedProcess(argv, code, *said)

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()


def _serve(address: str, there: int) -> None:
    import ai_how
    import ai_how.cli.main

    for module in pkgutil.walk_packages(ai_how.__path__, "ai_how."):
        if module.name != _RUNS:
            importlib.import_module(module.name)
    gc.freeze()  # else the first collection in each child touches, and so copies, every page
    waiting = selectors.DefaultSelector()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(address)
        server.listen(64)
        waiting.register(server, selectors.EVENT_READ)
        os.write(there, b"ready")
        os.close(there)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is server:
                    _begin(server, waiting)
                else:
                    pid, call = key.data
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    _answer(call, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    call.close()


def _begin(server: socket.socket, waiting: selectors.BaseSelector) -> None:
    call, _ = server.accept()
    asked, files, _, _ = socket.recv_fds(call, _LONGEST, 3)
    pid = os.fork()
    if pid == 0:
        _be_the_command(json.loads(asked), files)
    for each in files:
        os.close(each)
    _answer(call, pid)
    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, call))


def _answer(call: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the test has given up
        call.send(str(number).encode())


def _be_the_command(asked: dict[str, Any], files: list[int]) -> None:
    from ai_how.cli.main import main

    code: object = 1
    try:
        for target, each in enumerate(files):
            os.dup2(each, target)
        os.closerange(3, 1024)
        os.chdir(asked["directory"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = asked["argv"]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - as Python itself does at its end
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
