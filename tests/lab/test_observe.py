"""Reading a host on which others are at work at the same time."""

from __future__ import annotations

import threading
import time

from ai_how.host.libvirt import Libvirt
from ai_how.providers import domain as domains
from ai_how.providers import network as networks
from ai_how.resources.base import Kind, identity_uuid

NETWORK = "<network><name>restless</name><bridge name='restless'/></network>"
MACHINE = f"""
<domain type='qemu'><name>restless</name><uuid>{identity_uuid(Kind.DOMAIN, "restless")}</uuid>
  <memory>16384</memory><os><type>hvm</type></os></domain>
"""


def test_networks_that_come_and_go_do_not_disturb_reading(libvirt_uri: str) -> None:
    over = threading.Event()

    def come_and_go() -> None:
        with Libvirt(libvirt_uri) as other:
            while not over.is_set():
                other.connection.networkCreateXML(NETWORK).destroy()

    worker = threading.Thread(target=come_and_go)
    worker.start()
    deadline = time.monotonic() + 30
    there: set[bool] = set()
    try:
        with Libvirt(libvirt_uri) as libvirt:
            while there != {True, False}:
                assert time.monotonic() < deadline, f"it was always there, or never: {there}"
                there.add(any(each.name == "restless" for each in networks.observe_all(libvirt)))
    finally:
        over.set()
        worker.join()


def test_machine_is_seen_running_and_stopped_and_never_not_at_all(libvirt_uri: str) -> None:
    with Libvirt(libvirt_uri) as libvirt:
        handle = libvirt.connection.defineXML(MACHINE)
        try:
            states = []
            for act in (handle.create, handle.destroy):
                states += [each.running for each in domains.observe_all(libvirt) if each.name == "restless"]
                act()
            states += [each.running for each in domains.observe_all(libvirt) if each.name == "restless"]
        finally:
            handle.undefine()
    assert states == [False, True, False]


def test_machine_that_is_gone_does_not_run_and_need_not_be_asked_to_stop(libvirt_uri: str) -> None:
    with Libvirt(libvirt_uri) as libvirt:
        handle = libvirt.connection.defineXML(MACHINE)
        handle.create()
        assert domains.is_active(libvirt, handle)
        handle.destroy()
        handle.undefine()
        assert not domains.is_active(libvirt, handle)
        assert domains.shut_down(libvirt, ["restless"], within=1.0) == ()
