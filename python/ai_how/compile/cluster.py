"""A whole cluster's resources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import assert_never

from ai_how.compile.dns_modes import isolated, routed, service_discovery, shared_dns
from ai_how.resources.base import Resource
from ai_how.resources.domain import Domain
from ai_how.resources.names import pool_name
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.pool import Pool
from ai_how.resources.seed import SUFFIX as SEED_SUFFIX
from ai_how.resources.seed import Seed, node_content
from ai_how.resources.volume import SUFFIX as DISK_SUFFIX
from ai_how.resources.volume import Volume
from ai_how.spec.cluster import Cluster
from ai_how.spec.network import DnsMode
from ai_how.spec.node import Node

#: Where the clusters' directories are made: libvirt's own place, which its security drivers let QEMU read.
STORAGE = PurePosixPath("/var/lib/libvirt/images")

KIB_PER_MIB = 1024


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What of the host decides about resources: whether guests run under KVM, and where disks are kept."""

    kvm: bool
    storage: PurePosixPath = STORAGE


def compile_cluster(cluster: Cluster, facts: HostFacts, *, running: bool = True) -> tuple[Resource, ...]:
    """Everything that must exist for `cluster`, in an order in which needs come first.

    With `running=False` it is the same cluster at rest: defined, its machines and network off.
    """
    return tuple(_resources(cluster, facts, running=running))


def _resources(cluster: Cluster, facts: HostFacts, *, running: bool) -> Iterator[Resource]:
    pool = Pool(pool_name(cluster.name), facts.storage / pool_name(cluster.name), active=True)
    yield pool
    yield compile_network(cluster, active=running)
    if cluster.network.dns_mode is DnsMode.SERVICE_DISCOVERY:
        yield from service_discovery.registrations(cluster)
    for node in cluster.nodes:
        yield from _machine(cluster, node, pool, facts, running=running)


def compile_network(cluster: Cluster, *, active: bool) -> VirtualNetwork:
    """The cluster's network in its DNS mode."""
    mode = cluster.network.dns_mode
    match mode:
        case DnsMode.ISOLATED:
            return isolated.network(cluster, active=active)
        case DnsMode.SHARED_DNS:
            return shared_dns.network(cluster, active=active)
        case DnsMode.ROUTED:
            return routed.network(cluster, active=active)
        case DnsMode.SERVICE_DISCOVERY:
            return service_discovery.network(cluster, active=active)
        case _:
            assert_never(mode)


def _machine(cluster: Cluster, node: Node, pool: Pool, facts: HostFacts, *, running: bool) -> Iterator[Resource]:
    disk = Volume(pool.name, node.name + DISK_SUFFIX, node.disk_bytes, PurePosixPath(cluster.base_image))
    yield disk
    seed = None
    if cluster.cloud_init:
        content = node_content(node.name, f"{node.name}.{cluster.network.domain}")
        seed = Seed(pool.name, f"{node.name}-{content.digest}{SEED_SUFFIX}", content)
        yield seed
    yield Domain(
        name=node.name,
        cluster=cluster.name,
        role=node.role,
        kvm=facts.kvm,
        vcpus=node.vcpus,
        memory_kib=node.memory_mib * KIB_PER_MIB,
        disk=pool.path / disk.name,
        seed=None if seed is None else pool.path / seed.name,
        network=cluster.network.name,
        mac=node.mac,
        graphics=cluster.graphics,
        running=running,
    )
