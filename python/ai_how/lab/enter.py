"""Run one command inside an open lab: `python enter.py PID DIRECTORY COMMAND...`, started by `Lab.enter`.

A process can only be put into a PID namespace at its birth, so there are two: this one, which waits outside, and the
command. They behave as one: signals are passed on, killing this one kills the command, and its end is the
command's. nsenter(1) has neither, and dies of a Ctrl-C that its command would have handled.

This file imports nothing of ai-how and little else: it runs for every command.
"""

import ctypes
import os
import signal
import sys

#: Kind of namespace → its flag for setns(2). The mounts come last: afterwards /proc is the lab's.
_NAMESPACES = {"net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "pid": 0x20000000, "mnt": 0x00020000}
_PR_SET_PDEATHSIG = 1
_PASSED_ON = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_libc = ctypes.CDLL(None, use_errno=True)


def main(pid: str, directory: str, *command: str) -> int:
    """Enter, run, wait; the exit code, or an end by the signal that ended the command."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        _enter(pid)
    except OSError as error:
        sys.stderr.write(f"the lab with process {pid} cannot be entered: {error.strerror}\n")
        return 125
    child = os.fork()
    if child == 0:
        return _become(directory, command)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: _pass_on(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        _end_by(os.WTERMSIG(status))
    return os.WEXITSTATUS(status)


def _enter(pid: str) -> None:
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY)
    places = {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in _NAMESPACES}
    for name, flag in _NAMESPACES.items():
        if _libc.setns(places[name], flag) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.close(places[name])
    os.fchdir(root)
    os.chroot(".")  # the same directory, unless the lab was opened in a chroot
    os.close(root)


def _become(directory: str, command: tuple[str, ...]) -> int:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    try:
        os.chdir(directory)
        os.execvp(command[0], command)  # noqa: S606 - an argument list, no shell
    except OSError as error:
        sys.stderr.write(f"{error.filename or command[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


def _pass_on(child: int, number: int) -> None:
    if number in (signal.SIGINT, signal.SIGQUIT) and _in_foreground():
        return  # typed at the terminal: the command has got it already
    os.kill(child, number)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _end_by(number: int) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
