"""Nodes' registrations in Consul, at the agent that the mark of the cluster's network names.

Root remembers which agents have been told of which cluster before they are: whatever is cut off half-way, or was
destroyed while Consul was away, is found and taken back by `settle`.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ai_how.errors import HostError, NotOurs
from ai_how.host import consul, memory
from ai_how.host.libvirt import Libvirt
from ai_how.providers import network as networks
from ai_how.resources import xml
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.policy import read_policy, write_policy
from ai_how.resources.registration import Registration, is_of, read_registrations, service_id
from ai_how.spec.naming import network_name
from ai_how.spec.policy import Discovery, Policy

#: The file of our memory: what agents have been told.
MEMORY = "consul.json"

#: One step at a time: what is remembered must be true of all of them.
_ONE = threading.Lock()


@dataclass(frozen=True, slots=True)
class Told:
    """An agent that has been told of a cluster."""

    cluster: str
    discovery: Discovery

    @property
    def agent(self) -> tuple[str, str, str | None]:
        """What tells it from others; the way to a token may change, the agent stays the same."""
        return self.cluster, self.discovery.address, self.discovery.datacenter


def observe(libvirt: Libvirt, cluster: str) -> list[Registration]:
    """The cluster's registrations; none, and no question asked, where its network is not in service discovery.

    Raises HostError where Consul does not tell.
    """
    discovery = _discovery(libvirt, cluster)
    if discovery is None:
        return []
    services = consul.list_services(discovery, cluster)
    checks = consul.list_checks(discovery) if services else {}
    return read_registrations(services, checks, cluster=cluster, network=network_name(cluster), discovery=discovery)


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """None: an agent is asked when a node is registered, since its network, which names the agent, may be to come."""
    return {}


def create(libvirt: Libvirt, want: Registration) -> None:
    """Register the node. Raises NotOurs where its ID is taken."""
    with _ONE:
        there = consul.find_service(want.discovery, want.id)
        if there is not None and not is_of(want.cluster, there):
            raise NotOurs(
                f"{want.id} cannot be registered in Consul at {want.discovery.address}",
                why="there is already a service of this ID that ai-how did not register",
                remedy=f"If nobody needs it: {command(want.discovery, want.id)}",
            )
        _remember(Told(want.cluster, want.discovery))
        consul.register(want.discovery, want.to_json())


def change(libvirt: Libvirt, have: Registration, want: Registration) -> None:
    """Register it anew, which Consul does in place; at another agent, first there and then no longer here."""
    create(libvirt, want)
    if have.agent != want.agent:
        remove(libvirt, have)


def remove(libvirt: Libvirt, have: Registration) -> None:
    """Deregister it; what has its ID without our mark is somebody's."""
    with _ONE:
        there = consul.find_service(have.discovery, have.id)
        if there is not None and is_of(have.cluster, there):
            consul.deregister(have.discovery, have.id)
        if _told() and not consul.list_services(have.discovery, have.cluster):
            _forget(Told(have.cluster, have.discovery))


def astray(everything: Iterable[VirtualNetwork]) -> list[Told]:
    """The agents that have been told of clusters which are gone or went to another agent, given all networks of this
    host."""
    present = {
        Told(each.cluster, each.policy.discovery).agent
        for each in everything
        if each.cluster and each.policy.discovery is not None
    }
    return [each for each in _told() if each.agent not in present]


def settle(everything: Iterable[VirtualNetwork]) -> tuple[str, ...]:
    """Deregister what agents still have of clusters that are gone or went to another agent, given all networks of
    this host. Needs root, and does nothing without. Returns, for every agent that could not be told, why."""
    if not memory.is_root():
        return ()
    silent: dict[str, str] = {}
    with _ONE:
        for told in astray(everything):
            if told.discovery.address in silent:
                continue
            try:
                for each in consul.list_services(told.discovery, told.cluster):
                    consul.deregister(told.discovery, each)
            except HostError as error:
                silent[told.discovery.address] = (
                    f"nodes of {told.cluster} are still registered in Consul: {error}\n"
                    f"The next up or destroy tries again; to leave them there: rm {memory.DIRECTORY / MEMORY}"
                )
            else:
                _forget(told)
    return tuple(silent.values())


def was_told(cluster: str, discovery: Discovery) -> bool:
    """Whether root remembers that the agent of `discovery` has been told of `cluster`."""
    return Told(cluster, discovery).agent in {each.agent for each in _told()}


def remember_pending(cluster: str, discovery: Discovery, nodes: Iterable[str]) -> str:
    """What becomes of the registrations of `nodes` that cannot be taken back now because Consul is away.

    Root remembers them for `settle`; anybody else is told what to run.
    """
    if memory.is_root():
        with _ONE:
            _remember(Told(cluster, discovery))
        return "The next `ai-how up` or `ai-how destroy` takes them back, if Consul answers then."
    lines = [command(discovery, service_id(cluster, node)) for node in nodes]
    return "\n".join(["Take them back when Consul answers again:", *lines])


def command(discovery: Discovery, service: str) -> str:
    """The command of Consul's that deregisters a service."""
    tls = discovery.tls
    options = {
        "http-addr": discovery.address,
        "token-file": discovery.token_file,
        "ca-file": tls and tls.ca_file,
        "client-cert": tls and tls.cert_file,
        "client-key": tls and tls.key_file,
        "tls-server-name": tls and tls.server_name,
        "id": service,
    }
    return " ".join(["consul services deregister", *(f"-{name}={value}" for name, value in options.items() if value)])


def _discovery(libvirt: Libvirt, cluster: str) -> Discovery | None:
    """What the mark of the cluster's network says of Consul; nothing else of it, which may be long, is understood."""
    name = network_name(cluster)
    handle = networks.find(libvirt, name)
    if handle is None or not networks.is_ours(handle):
        return None
    with libvirt.doing(f"cannot read network {name}"):
        text = handle.XMLDesc(libvirt.api.VIR_NETWORK_XML_INACTIVE)
    return read_policy(xml.read_mark(xml.parse(text)).get("policy")).discovery


def _told() -> list[Told]:
    """What is remembered. Entries that cannot be read were written by nobody of us."""
    found = []
    kept = memory.recall(MEMORY)
    for each in kept if isinstance(kept, list) else ():
        discovery = read_policy(each.get("policy")).discovery if isinstance(each, dict) else None
        if discovery is not None:
            found.append(Told(str(each.get("cluster", "")), discovery))
    return found


def _remember(told: Told) -> None:
    if memory.is_root() and told not in (kept := _told()):
        _write([*(each for each in kept if each.agent != told.agent), told])


def _forget(told: Told) -> None:
    if memory.is_root():
        _write([each for each in _told() if each.agent != told.agent])


def _write(kept: list[Told]) -> None:
    if kept:
        text = [{"cluster": each.cluster, "policy": write_policy(Policy(discovery=each.discovery))} for each in kept]
        memory.remember(MEMORY, text)
    else:
        memory.forget(MEMORY)
