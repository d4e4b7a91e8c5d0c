"""libvirt domains on a host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from ai_how.host.libvirt import Handle, Libvirt
from ai_how.providers import attachment
from ai_how.resources.base import Kind, identity_uuid
from ai_how.resources.domain import Domain, read_domain

#: Seconds between two looks at a machine that is shutting down.
INTERVAL = 0.2


def observe(libvirt: Libvirt, cluster: str) -> list[Domain]:
    """The cluster's machines."""
    return [domain for domain in observe_all(libvirt) if domain.cluster == cluster]


def observe_all(libvirt: Libvirt) -> list[Domain]:
    """Every machine of the host that carries our mark, of all clusters."""
    with libvirt.doing("cannot list the host's machines"):
        handles = libvirt.connection.listAllDomains()
        # Asked for all at once: one call for each would cost as much as the definitions do.
        undefined = libvirt.connection.listAllDomains(libvirt.api.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
    passing = {handle.name() for handle in undefined}
    ours = [handle for handle in handles if is_ours(handle)]
    texts = libvirt.map(lambda handle: _describe(libvirt, handle), ours)
    # The list gives a number to what runs: asked for in two lists, a machine that starts in between is in neither.
    found = [
        replace(read_domain(text, running=handle.ID() != -1), saved=handle.name() not in passing)
        for handle, text in zip(ours, texts, strict=True)
        if text is not None
    ]
    apart = attachment.unlinked(libvirt, {each.name: each.network for each in found if each.running})
    return [replace(each, linked=False) if each.name in apart else each for each in found]


def paused(libvirt: Libvirt) -> frozenset[str]:
    """The names of the host's machines that are there and stand still: somebody paused them, or their disk is full."""
    with libvirt.doing("cannot list the host's machines"):
        handles = libvirt.connection.listAllDomains(libvirt.api.VIR_CONNECT_LIST_DOMAINS_PAUSED)
    return frozenset(handle.name() for handle in handles)


def saved(libvirt: Libvirt) -> frozenset[str]:
    """The names of the host's machines that go on where they were saved when they are started (virsh managedsave)."""
    with libvirt.doing("cannot list the host's machines"):
        handles = libvirt.connection.listAllDomains(libvirt.api.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
    return frozenset(handle.name() for handle in handles)


def until_done(libvirt: Libvirt) -> None:
    """Wait until libvirt has done with our machines what was asked of it, also by somebody who has been killed since.

    It starts or stops one as a job, during which it still tells the old state. A question that needs the job waits.
    """
    with libvirt.doing("cannot list the host's machines"):
        handles = libvirt.connection.listAllDomains()

    def ask(handle: Handle) -> None:
        with contextlib.suppress(libvirt.api.libvirtError):  # it has no such card, and says so after the job
            handle.interfaceStats("none")

    libvirt.map(ask, [handle for handle in handles if is_ours(handle)])


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """Machines of these names that someone else made."""
    with libvirt.doing("cannot list the host's machines"):
        handles = libvirt.connection.listAllDomains()
    return {
        handle.name(): f"a machine with UUID {handle.UUIDString()} that ai-how did not make"
        for handle in handles
        if handle.name() in names and not is_ours(handle)
    }


def create(libvirt: Libvirt, want: Domain) -> None:
    """Define it and start it if it is to run."""
    handle = _define(libvirt, want)
    if want.running:
        _start(libvirt, handle, want.name)


def change(libvirt: Libvirt, have: Domain, want: Domain) -> None:
    """Redefine what differs (a running machine takes it up at its next start), start or stop it, mend its link."""
    # On the way back from a change that failed it stays defined.
    want = replace(want, saved=True)
    redefine = replace(have, running=want.running, linked=want.linked) != want
    handle = _define(libvirt, want) if redefine else libvirt.get(libvirt.connection.lookupByName, want.name)
    if want.running:
        _start(libvirt, handle, want.name)
        if want.linked and not have.linked:
            _unplug_forgotten(libvirt, handle, want)
            attachment.attach(libvirt, want.network, machines=[want.name])
    else:
        power_off(libvirt, handle, want.name)


def remove(libvirt: Libvirt, have: Domain) -> None:
    """Power it off and undefine it; its disks are resources of their own."""
    handle = find(libvirt, have.name)
    if handle is None:
        return
    power_off(libvirt, handle, have.name)
    # One that somebody undefined while it ran went with its power.
    handle = find(libvirt, have.name)
    if handle is None:
        return
    api = libvirt.api
    with libvirt.doing(f"cannot undefine {have.name}"):
        handle.undefineFlags(
            api.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | api.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | api.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | api.VIR_DOMAIN_UNDEFINE_NVRAM
        )


def shut_down(libvirt: Libvirt, names: Collection[str], *, within: float) -> tuple[str, ...]:
    """Ask the machines to shut down, all at once, and wait up to `within` seconds.

    Returns those that are still running. The request is repeated: a guest that is booting does not hear the first.
    """
    deadline = time.monotonic() + within
    left = {name: handle for name in names if (handle := find(libvirt, name)) is not None}
    asked = 0.0
    while left:
        left = {name: handle for name, handle in left.items() if is_active(libvirt, handle)}
        if time.monotonic() >= deadline:
            break
        if left and time.monotonic() - asked > 2.0:
            asked = time.monotonic()
            for handle in left.values():
                _ask(libvirt, handle)
        if left:
            time.sleep(INTERVAL)
    return tuple(sorted(left))


def power_off(libvirt: Libvirt, handle: Handle, name: str) -> None:
    """End the machine at once, if it runs."""
    api = libvirt.api
    try:
        handle.destroy()
    except api.libvirtError as error:
        if error.get_error_code() not in {api.VIR_ERR_OPERATION_INVALID, api.VIR_ERR_NO_DOMAIN}:
            with libvirt.doing(f"cannot power off {name}"):
                raise


def find(libvirt: Libvirt, name: str) -> Handle | None:
    """The machine's handle, None where there is none of that name."""
    return libvirt.find(libvirt.connection.lookupByName, name)


def is_ours(handle: Handle) -> bool:
    """Whether the machine carries our mark: the UUID that follows from its name."""
    return bool(handle.UUIDString() == str(identity_uuid(Kind.DOMAIN, handle.name())))


def is_active(libvirt: Libvirt, handle: Handle) -> bool:
    """Whether the machine runs; one that is gone does not."""
    return bool(libvirt.ask(f"cannot ask whether {handle.name()} runs", handle.isActive))


def _describe(libvirt: Libvirt, handle: Handle) -> str | None:
    """The machine's definition, None where it is gone since it was listed."""
    return libvirt.ask(f"cannot read {handle.name()}", lambda: handle.XMLDesc(libvirt.api.VIR_DOMAIN_XML_INACTIVE))


def _define(libvirt: Libvirt, want: Domain) -> Handle:
    with libvirt.doing(f"cannot define {want.name}"):
        return libvirt.connection.defineXML(want.to_xml())


def _unplug_forgotten(libvirt: Libvirt, handle: Handle, want: Domain) -> None:
    """Unplug the machine's card where its network knows of no lease of it: somebody undefined the network, and libvirt
    forgot them. It asks DHCP anew when it is plugged in again, and not only when half of its lease is over."""
    network = libvirt.get(libvirt.connection.networkLookupByName, want.network)
    with libvirt.doing(f"cannot read the leases of {want.network}"):
        if network.DHCPLeases(want.mac):
            return
    text = libvirt.ask(f"cannot read {want.name}", handle.XMLDesc)
    for link in () if text is None else attachment.read_links(text):
        if link.network == want.network and link.on:
            with contextlib.suppress(libvirt.api.libvirtError):  # who plugs it in says what is wrong
                handle.updateDeviceFlags(link.to_xml(on=False), libvirt.api.VIR_DOMAIN_AFFECT_LIVE)


def _start(libvirt: Libvirt, handle: Handle, name: str) -> None:
    api = libvirt.api
    try:
        handle.create()
    except api.libvirtError as error:
        if error.get_error_code() != api.VIR_ERR_OPERATION_INVALID or not is_active(libvirt, handle):
            with libvirt.doing(f"cannot start {name}"):
                raise


def _ask(libvirt: Libvirt, handle: Handle) -> None:
    """Press the power button. A machine that is off already, gone, or just going, is none of our concern here."""
    api = libvirt.api
    try:
        handle.shutdownFlags(api.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    except api.libvirtError as error:
        if error.get_error_code() not in {api.VIR_ERR_OPERATION_INVALID, api.VIR_ERR_NO_DOMAIN}:
            with libvirt.doing(f"cannot ask {handle.name()} to shut down"):
                raise
