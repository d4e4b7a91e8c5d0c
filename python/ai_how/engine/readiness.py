"""When the nodes of a cluster that was brought up are ready: which are waited for, and what their old leases tell."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address

from ai_how.engine.events import Event, Note, Progress, StepDone
from ai_how.engine.prepare import Prepared
from ai_how.engine.traffic import AFTER_WITHIN, restarts_network, verify_traffic, who_answers
from ai_how.engine.wait import Lease, leases, wait_for_leases
from ai_how.errors import HostError, NotReady, some
from ai_how.host.libvirt import Libvirt
from ai_how.providers import attachment
from ai_how.providers import domain as domains
from ai_how.resources.base import Kind
from ai_how.resources.domain import Domain
from ai_how.resources.network import VirtualNetwork


class Readiness:
    """What nodes have before a plan is carried out, to tell afterwards what they have of it."""

    def __init__(self, libvirt: Libvirt, ready: Prepared) -> None:
        self._libvirt, self._ready = libvirt, ready
        self._kept = {each.name: each for each in ready.observed.domains if each.running}
        self._expiries: dict[str, int] = self._read_expiries() if ready.plan else {}
        self._answered: Mapping[str, IPv4Address] = (
            who_answers(libvirt, ready.observed.domains, ready.observed.network) if restarts_network(ready.plan) else {}
        )
        self._told_anew = self._read_told_anew()

    def watch(self, progress: Progress) -> Progress:
        """`progress`, listened to: a network that becomes active shows its old leases, when no machine runs yet that
        could renew one."""

        def tell(event: Event) -> None:
            if isinstance(event, StepDone) and event.step.target.kind is Kind.NETWORK:
                self._expiries.update(self._read_expiries())
            progress(event)

        return tell

    def verify_traffic(self, progress: Progress) -> None:
        """Wait for the nodes that answered before a restart of their network. Raises NodesSilent."""
        verify_traffic(self._libvirt, self._answered, self._ready.want, progress)

    def wait(self, within: float, progress: Progress) -> None:
        """Wait up to `within` seconds for the leases of the nodes that run. Raises NotReady.

        Those that run on and whose network tells them something else now have less time: what does not ask DHCP anew
        when its link comes back works with what it has, and is named in a warning.
        """
        nodes = self._to_wait_for(progress)
        kept = [each for each in nodes if each.mac in self._told_anew]
        if kept:
            try:
                self._wait(kept, self._told_anew, min(within, AFTER_WITHIN), progress)
            except NotReady as late:
                text = f"{late.what} since their link came back ({late.why}); they keep what DHCP told them before"
                progress(Note(f"{text} until they renew, or are restarted: virsh reboot NODE", warning=True))
        rest = [each for each in nodes if each not in kept]
        settled = self._settled_without(rest, within, progress)
        rest = [each for each in rest if each.name not in settled]
        if rest or not (kept or settled):
            self._wait(rest, self._expiries, within, progress)

    def _settled_without(self, nodes: list[Domain], within: float, progress: Progress) -> set[str]:
        """Those of `nodes` that ran on and whose leases are lost, when they have one again, or answer: these are named.

        Somebody undefined their network, and libvirt forgot their leases with it. A node whose link came back just now
        asks for another, for which it has up to `within` seconds; else it asks when half of its lease is over.
        """
        lost = self._without_lease([each for each in nodes if each.name in self._kept])
        settled: set[str] = set()
        asking = [each for each in lost if not self._kept[each.name].linked]
        if asking:
            with suppress(NotReady):
                self._wait(asking, {}, min(within, AFTER_WITHIN), progress)
                settled.update(each.name for each in asking)
            lost = self._without_lease(lost)
        network = next((each for each in self._ready.want if isinstance(each, VirtualNetwork)), None)
        answering: list[str] = []
        if lost:
            with suppress(HostError):  # nobody can be asked: then only a lease tells
                answering = sorted(who_answers(self._libvirt, lost, network))
        if answering:
            text = "running on and answering, with no lease that libvirt knows of until they ask again"
            progress(Note(f"{some(answering)}: {text}, or are restarted: virsh reboot NODE", warning=True))
        return settled.union(answering)

    def _without_lease(self, nodes: list[Domain]) -> list[Domain]:
        held = {each.mac for each in self._read_leases()} if nodes else set()
        return [each for each in nodes if each.mac not in held]

    def _wait(self, nodes: list[Domain], before: Mapping[str, int], within: float, progress: Progress) -> None:
        spec = self._ready.spec
        reserved: dict[str, IPv4Address] = {node.mac: node.ip for node in spec.nodes if node.ip is not None}
        wait_for_leases(
            self._libvirt, spec.network.name, nodes, reserved, before=before, within=within, progress=progress
        )

    def _to_wait_for(self, progress: Progress) -> list[Domain]:
        """The nodes that run, but for those that ran before with another address, which they keep until they ask anew.
        Says which."""
        spec = self._ready.spec
        held = {each.mac: each.ip for each in self._read_leases()}
        addresses = {node.name: node.ip for node in spec.nodes}
        nodes = []
        for each in self._ready.want:
            if not isinstance(each, Domain) or not each.running:
                continue
            now, ip = self._kept.get(each.name), addresses[each.name]
            if now is not None and now.mac != each.mac:
                continue  # named among what waits for the next start
            if now is not None and ip is not None and held.get(each.mac, ip) != ip:
                text = (
                    f"{each.name} keeps {held[each.mac]} until it is restarted or renews its lease; then it gets {ip}"
                )
                progress(Note(text, warning=True))
            else:
                nodes.append(each)
        return nodes

    def _read_expiries(self) -> dict[str, int]:
        """When the leases end that nodes still hold from an earlier life, of those that the plan starts."""
        # One that goes on where it was saved goes on with its lease, too, and does not ask for it again.
        resumed = domains.saved(self._libvirt)
        started = {
            step.want.mac
            for step in self._ready.plan.steps
            if isinstance(step.want, Domain) and step.want.running and not (step.have is not None and step.have.up)
            if step.want.name not in resumed
        }
        return {each.mac: each.expires for each in self._read_leases() if each.mac in started}

    def _read_told_anew(self) -> dict[str, int]:
        """When the leases end of nodes that run on in a network that is to tell them something else. They have asked
        anew when theirs ends at another time."""
        told = any(
            step.target.kind is Kind.NETWORK and attachment.TOLD.intersection(each.field for each in step.fields)
            for step in self._ready.plan.steps
        )
        if not told or not self._answered:
            return {}
        macs = {each.mac for name, each in self._kept.items() if name in self._answered}
        # One that never ends is the same when it is given anew.
        return {each.mac: each.expires for each in self._read_leases() if each.mac in macs and each.expires}

    def _read_leases(self) -> tuple[Lease, ...]:
        return leases(self._libvirt, self._ready.spec.network.name)
