"""The whole tree of errors. Each says what failed, why, and what to do about it.

Only the command line prints them; its exit codes are the `exit_code` of these classes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Severity(StrEnum):
    """How much a problem weighs: an error stops everything, a warning is advice."""

    ERROR = "error"
    WARNING = "warning"


#: Where a value stands in the configuration: keys and list indexes from the root, e.g. ("clusters", "hpc", "name").
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong (or unwise) in a configuration, and what to write instead.

    `file`, `line` and `column` (from 1) are None where the configuration did not come from a file.
    """

    path: Path
    message: str
    hint: str = ""
    severity: Severity = Severity.ERROR
    file: str | None = None
    line: int | None = None
    column: int | None = None

    @property
    def dotted(self) -> str:
        """The path as people write it: `clusters.hpc.compute_nodes[0].ip`."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
        return text


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of `names`, as a message lists them: `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class AiHowError(Exception):
    """The root. `what` names the thing, `why` the cause, `remedy` what to do."""

    exit_code: ClassVar[int] = 3

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}\n{self.remedy}" if self.remedy else text


class NotReady(AiHowError):
    """The answer is no: what was waited for did not come by the deadline."""

    exit_code = 1


class NodesSilent(NotReady):
    """Nodes that answered before a change do not answer after it."""


class UsageError(AiHowError):
    """The command or call itself is wrong: an unknown cluster, node or option."""

    exit_code = 2


class ConfigurationError(UsageError):
    """The configuration is wrong. `problems` holds all of it, errors and warnings alike."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        wrong = [p for p in self.problems if p.severity is Severity.ERROR]
        super().__init__(
            "the configuration is not valid",
            why="; ".join(f"{p.dotted}: {p.message}" if p.path else p.message for p in wrong),
            remedy="\n".join(p.hint for p in wrong if p.hint),
        )


class HostError(AiHowError):
    """The host or its libvirt could not do what was asked."""


class LibvirtError(HostError):
    """libvirt refused or is not there. `code` is its VIR_ERR_* number, None where there was no connection."""

    def __init__(self, what: str, *, why: str = "", remedy: str = "", code: int | None = None) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.code = code


class CommandFailed(HostError):
    """A program ended with an error; its standard error is part of the message, never hidden."""

    def __init__(self, argv: Sequence[str], returncode: int | None, stderr: str, *, remedy: str = "") -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr
        said = stderr.strip() or "it said nothing"
        super().__init__(f"{self.argv[0]} {_ending(returncode)}", why=said, remedy=remedy)


def _ending(returncode: int | None) -> str:
    """How a program ended, as `subprocess` has it: negative by a signal, None where it did not come to an end."""
    if returncode is None:
        return "could not be run"
    if returncode < 0:
        return f"was ended by signal {-returncode} ({signal.strsignal(-returncode)})"
    return f"ended with {returncode}"


class NotOurs(HostError):
    """Something of our name exists and does not carry our mark; it is never changed or deleted."""


class StateError(HostError):
    """The state file cannot be used: corrupt, of a newer version, locked, unwritable."""


class InUse(StateError):
    """Another ai-how works on the same thing now; nothing was changed. Later it may go."""


class Unconfirmed(HostError):
    """A change of the cluster waits for its confirmation, and is undone without it; nothing else was changed."""


class UnsafeChange(HostError):
    """The change would lose data or connections, and this command does not do that by itself."""


class ConsentNeeded(UnsafeChange):
    """The change costs what only its user can agree to. `digest` names the plan that was refused (Plan.digest)."""

    def __init__(self, cluster: str, *, why: str, remedy: str, digest: str) -> None:
        self.digest = digest
        super().__init__(f"cluster {cluster} is not changed", why=why, remedy=remedy)


class NodesLeave(ConsentNeeded):
    """Nodes that are no longer configured would be removed, with what is on their disks. `nodes` are their names."""

    def __init__(self, cluster: str, nodes: Sequence[str], digest: str) -> None:
        self.nodes = tuple(nodes)
        super().__init__(
            cluster,
            why=f"no longer configured, and to be removed with their disks: {some(nodes)}",
            remedy="If that is meant: ai-how up --yes, or start_cluster(remove_nodes=True).\n"
            "Nodes of a list are named by their place: give each a `name`, and one can leave alone.",
            digest=digest,
        )


class NodesDisturbed(ConsentNeeded):
    """Running nodes would notice the change. `nodes` are their names, `reasons` say what happens to them."""

    def __init__(self, cluster: str, nodes: Sequence[str], reasons: Sequence[str], digest: str) -> None:
        self.nodes = tuple(nodes)
        self.reasons = tuple(reasons)
        super().__init__(
            cluster,
            why="; ".join(reasons),
            remedy="Look at it with ai-how plan. If that is meant: ai-how up --yes, or "
            "start_cluster(disturb_nodes=True).",
            digest=digest,
        )


class PlanStale(HostError):
    """What would be done now is not what a plan said that was made earlier, or elsewhere; nothing was changed."""


class PrivilegeError(AiHowError):
    """The caller lacks a privilege; nothing was changed. `remedy` is the command to run."""

    exit_code = 4


class RootNeeded(PrivilegeError):
    """The host itself would have to change, outside libvirt. `changes` says how; nothing was changed."""

    def __init__(self, cluster: str, changes: Sequence[str]) -> None:
        self.changes = tuple(changes)
        super().__init__(
            f"cluster {cluster} needs root",
            why="this host would be changed outside libvirt: " + "; ".join(self.changes),
            remedy="Run the same as root. Clusters in isolated and service_discovery can do without: with "
            "network.firewall.enabled: false they have libvirt's own rules only (docs/modes/isolated.md).",
        )


class LeftoversNeedRoot(RootNeeded):
    """Leftovers outside libvirt can only be removed by root; nothing was changed."""

    def __init__(self, leftovers: Sequence[str]) -> None:
        super().__init__("", leftovers)
        self.what = "removing the leftovers needs root"
        self.why = f"these are on this host outside libvirt: {some(leftovers)}"
        self.remedy = "Run the same as root."


class Interrupted(AiHowError):
    """Stopped by a signal, after undoing or journalling what was under way."""

    exit_code = 130
