"""Our XML against libvirt's own schemas: also that for KVM, which machines without it cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from ai_how.compile.cluster import HostFacts, compile_cluster
from ai_how.config.load import load_mapping
from ai_how.resources.base import Kind
from ai_how.spec.cluster import Cluster
from ai_how.spec.resolve import resolve

SCHEMAS = Path("/usr/share/libvirt/schemas")
FILES: Mapping[Kind, str] = {
    Kind.POOL: "storagepool.rng",
    Kind.NETWORK: "network.rng",
    Kind.VOLUME: "storagevol.rng",
    Kind.DOMAIN: "domain.rng",
}


def _cluster() -> Cluster:
    machine = {"cpu_cores": 2, "memory_gb": 0.5, "disk_gb": 10}
    return resolve(
        load_mapping(
            {
                "clusters": {
                    "hpc": {
                        "name": "hpc-cluster",
                        "base_image_path": "/images/a & b <c>.qcow2",
                        "network": {"subnet": "192.168.100.0/24", "bridge": "br-hpc-cluster", "mtu": 1400},
                        "controller": machine,
                        "compute_nodes": [machine, {**machine, "ip": "DHCP"}],
                        "graphics": True,
                        "cloud_init": True,
                    }
                }
            }
        )
    )


@pytest.mark.parametrize("kvm", [True, False], ids=["kvm", "tcg"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "with every option"])
def test_every_document_fits_the_schema_of_libvirt(kvm: bool, plain: bool) -> None:
    cluster = _cluster()
    if plain:
        network = replace(cluster.network, mtu=None, dns_servers=(cluster.network.gateway,))
        cluster = replace(cluster, network=network, graphics=False, cloud_init=False)
    checked = set()
    for resource in compile_cluster(cluster, HostFacts(kvm=kvm)):
        if resource.kind in FILES:
            written: Any = resource
            schema = etree.RelaxNG(etree.parse(SCHEMAS / FILES[resource.kind]))
            assert schema.validate(etree.fromstring(written.to_xml())), f"{resource}: {schema.error_log}"
            checked.add(resource.kind)
    assert checked == set(FILES)


def test_the_schema_refuses_what_libvirt_does_not_know() -> None:
    schema = etree.RelaxNG(etree.parse(SCHEMAS / FILES[Kind.NETWORK]))
    assert not schema.validate(etree.fromstring("<network><name>x</name><bridges/></network>"))
