"""Checks of what only clusters of ai-how have, and of what runs beside what is defined."""

from __future__ import annotations

from collections.abc import Iterator

from ai_how.compile.hook import HOOK
from ai_how.diagnose.checks.base import HOST, advice, check, of_host, of_network
from ai_how.diagnose.facts import Drift, Facts, Network, Part
from ai_how.diagnose.finding import Answer, Finding, Fix
from ai_how.host.nftables import RULES
from ai_how.resources.hook import PATH

#: What other checks look at more closely.
_ELSEWHERE = frozenset({"firewall", "hook", "resolver"})
#: Of a network, what its definition says beside what runs; the rest is the bridge's and dnsmasq's.
_DEFINITION = "its definition"
_OF_NETWORK = (_DEFINITION, "it runs, and does not start")
#: What the engine mends from the host alone; for the rest it takes the configuration.
_MENDED = frozenset({"network", "sysctl", "passage", "servers", "route", "resolver", "hook", "firewall"})


#: What all clusters share.
_OF_HOST = frozenset({"sysctl", "passage"})


def mend(cluster: str, network: str) -> Fix:
    """The engine brings what belongs to the cluster back to what it was made as."""
    return Fix((("ai-how", "doctor", "--fix", "network", network),), automatic=True, mend=cluster)


@check(
    "hook-missing", "Will libvirt restore the rules when a network starts?",
    Part.NETWORKS, Part.MEMORY, Part.HOST,
)  # fmt: skip
def hook(facts: Facts) -> Iterator[Finding]:
    guarded = [each for each in facts.networks if each.guarded]
    if not guarded:
        return
    memory, fix = facts.memory, mend(guarded[0].cluster, guarded[0].name)
    if memory.hook is None:
        summary = f"{PATH} is gone"
    elif memory.hook != HOOK.content:
        summary = f"{PATH} is not what ai-how wrote"
    elif memory.mode != HOOK.mode:
        summary = f"libvirt does not run {PATH}: its mode is {memory.mode}, not {HOOK.mode}"
    elif memory.unknown_to_libvirt:
        summary = f"the libvirt that runs has not seen {PATH} yet"
        # Not by us: it would also start what somebody has stopped, and what is marked to start by itself.
        fix = advice(
            "Have it look again (it also starts what is marked for autostart):", ("kill", "-HUP", str(facts.daemon))
        )
    elif RULES not in memory.files:
        summary = "the rules are gone that it would load, so that no network of ai-how's starts"
    else:
        return
    names = ", ".join(each.name for each in guarded)
    yield of_host(
        Answer.WARN,
        f"{summary}: after a restart of the host its networks would be without rules, or not start",
        f"networks: {names}",
        fix=fix,
    )


@check("resolver-route-missing", "Does this host find the names that it shall know?", Part.NETWORKS, Part.RESOLVES)
def resolves(facts: Facts) -> Iterator[Finding]:
    told = {each.cluster for each in facts.drift if each.kind == "resolver"}
    for network in facts.active:
        reply = facts.resolves.get(network.name)
        if reply is not None and not reply.answered and network.cluster not in told:
            yield of_network(
                network,
                Answer.FAIL,
                f"programs on this host do not find {network.domain}",
                reply.why,
                f"they ask {', '.join(facts.resolvers) or 'nobody'} (/etc/resolv.conf)",
                fix=advice(
                    "The resolver that knows the clusters is not the one that is asked. Point /etc/resolv.conf at it "
                    "(127.0.0.53 for systemd-resolved, 127.0.0.1 for a dnsmasq of the host's), and keep whoever "
                    "writes that file (DHCP, NetworkManager) from changing it."
                ),
            )


@check("resolver-route-missing", "Does the host's resolver know every cluster that it should?", Part.DRIFT)
def resolver(facts: Facts) -> Iterator[Finding]:
    for each in facts.drift:
        network = _network_of(facts, each)
        if each.kind == "resolver" and network is not None:
            yield of_network(
                network,
                Answer.FAIL,
                f"this host does not resolve names of {network.domain or each.cluster}",
                each.what,
                fix=mend(each.cluster, network.name),
            )


def _network_of(facts: Facts, drift: Drift) -> Network | None:
    """The network that it is about: by its key, or the one of its cluster."""
    return facts.network(drift.key) or next((each for each in facts.networks if each.cluster == drift.cluster), None)


@check("config-drift", "Is what runs what is defined?", Part.NETWORKS, Part.MACHINES)
def defined(facts: Facts) -> Iterator[Finding]:
    for network in facts.networks:
        differences = list(network.differences)
        if network.active and not network.persistent and network.cluster:
            differences.append("it is not defined any more: it will be gone when it stops")
        if differences:
            yield of_network(
                network,
                Answer.WARN,
                f"network {network.name} runs otherwise than it is defined",
                *differences,
                fix=advice(
                    "Only the configuration says which is right: ai-how plan shows the way back, ai-how up goes it."
                )
                if network.cluster
                else advice(
                    "Decide which is right. What is defined comes into force so (machines lose their link meanwhile):",
                    ("virsh", "net-destroy", network.name),
                    ("virsh", "net-start", network.name),
                ),
            )
    for machine in facts.machines:
        if machine.differences:
            yield Finding(
                "",
                machine.name,
                Answer.WARN,
                machine.differences[0],
                machine.differences[1:],
                advice("What is defined comes into force when it starts anew:", ("virsh", "shutdown", machine.name)),
                machine=machine.name,
            )
    rules = facts.memory.files.get(RULES)
    if rules is not None and facts.firewall.loaded is None and Part.FIREWALL not in facts.missing:
        yield of_host(
            Answer.WARN,
            f"/var/lib/ai-how/{RULES} is not what ai-how wrote: nft cannot load it",
            fix=advice("ai-how up with the configuration of any cluster writes it anew."),
        )


@check("config-drift", "Is the state file that of runs that ended?", Part.STATE)
def ended(facts: Facts) -> Iterator[Finding]:
    if facts.state:
        yield of_host(
            Answer.WARN,
            facts.state[0],
            *facts.state[1:],
            fix=advice("The next ai-how up of the cluster completes it, ai-how destroy removes what is there."),
        )


@check("config-drift", "Is everything of ai-how as it was made?", Part.DRIFT)
def as_made(facts: Facts) -> Iterator[Finding]:
    for why in facts.unseen:
        yield of_host(Answer.UNKNOWN, "whether everything of ai-how is as it was made", why)
    told: set[tuple[str, str]] = set()
    for each in facts.drift:
        if each.kind in _ELSEWHERE or (each.kind, each.key) in told:
            continue
        if each.kind == "network" and not each.what.startswith(_OF_NETWORK):
            continue
        if each.kind == "domain" and "link" in each.what:
            continue
        told.add((each.kind, each.key))
        network = _network_of(facts, each)
        name = network.name if network else ""
        defined_otherwise = each.kind == "network" and each.what.startswith(_DEFINITION)
        if defined_otherwise and network is not None and network.differences:
            continue  # told in detail
        yield Finding(
            "",
            each.key if each.kind != "sysctl" else HOST,
            Answer.WARN,
            f"{each.kind} {each.key}: {each.what}",
            fix=mend(each.cluster, name)
            if each.kind in _MENDED and name and not defined_otherwise
            else advice("ai-how plan with the cluster's configuration says how it is made again, ai-how up does it."),
            network="" if each.kind in _OF_HOST else name,
            kind=each.kind,
        )
