"""Every fault that the doctor knows, made on a real host in different ways, and those that cannot be made here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.lab.clusters import breakages
from tests.lab.doctor import ways
from tests.lab.doctor.scene import (
    ALONE,
    DEFAULT,
    DEFAULT_BRIDGE,
    DEFAULT_GATEWAY,
    FOUND,
    GUEST,
    GUEST_IP,
    HOST,
    LIVE,
    NAMES,
    TINY,
    TINY_MAC,
    WAY,
    Ask,
    Scene,
    bridge_of,
    gateway_of,
    mac_of,
)

from ai_how.resources.hook import PATH as HOOK_PATH

#: All networks of clusters, and all networks.
CLUSTERS = (ALONE, NAMES, WAY, FOUND, LIVE)
EVERY = (DEFAULT, *CLUSTERS)

RULES = breakages.rules
ADD, TAKE = "add element inet ai_how ", "delete element inet ai_how "


@dataclass(frozen=True)
class Fault:
    """`id` is to be named, of `subject`: of one of them where a fault concerns several. `way` is how it comes about.

    `words` are the question; `cuts` are networks whose nodes reach nobody outside any more, looked at by their packets.
    """

    id: str
    subject: str | tuple[str, ...]
    way: str
    breaks: ways.Breaks
    words: tuple[str, ...] = ()
    cuts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.id}: {self.way}"

    @property
    def subjects(self) -> tuple[str, ...]:
        return (self.subject,) if isinstance(self.subject, str) else self.subject

    @contextmanager
    def made(self, scene: Scene) -> Iterator[Ask | None]:
        """The fault is there for the length of a `with` block. What cannot be mended again spoils all that follow."""
        assert not scene.spoilt, f"not mended: {scene.spoilt}"
        with ExitStack() as stack:
            otherwise = stack.enter_context(self.breaks(scene))
            assert [each for each in self.cuts if ways.leads_out(each)] == []
            try:
                yield otherwise
            finally:
                scene.spoilt = str(self)
                stack.close()
                scene.spoilt = ""


_BR = {each: bridge_of(each) for each in EVERY}

FAULTS: tuple[Fault, ...] = (
    # The host
    Fault("libvirtd-down", HOST, "it was killed", ways.libvirtd_killed),
    Fault("libvirtd-down", HOST, "its socket was removed", ways.libvirtd_without_socket),
    Fault("libvirtd-down", HOST, "it is stopped", ways.libvirtd_stopped),
    Fault("permission-denied", HOST, "the socket is root's", ways.nobody_asks),
    Fault("permission-denied", HOST, "polkit says no", ways.nobody_asks_polkit),
    Fault("outdated-package", HOST, "a dnsmasq of 2018", ways.old_dnsmasq),
    Fault("kvm-unusable", "hangs", "a machine hangs under it", ways.kvm_hangs),
    Fault("kvm-unusable", "wants", "there is no /dev/kvm", ways.kvm_is_gone, ("vm", "wants")),
    Fault("qemu-missing", HOST, "it is not installed", ways.without_program("/usr/bin/qemu-system-x86_64")),
    Fault("qemu-missing", HOST, "it cannot be run", ways.without_program("/usr/bin/qemu-system-x86_64", there=True)),
    Fault("qemu-missing", HOST, "a machine's own emulator was deleted", ways.emulator_deleted),
    Fault(
        "dnsmasq-missing",
        HOST,
        "it was removed, and a network stopped",
        ways.at_once(ways.stopped(ALONE), ways.without_program("/usr/sbin/dnsmasq")),
    ),
    Fault(
        "dnsmasq-missing",
        HOST,
        "it cannot be run, and a network's ended",
        ways.at_once(ways.killed(ALONE), ways.without_program("/usr/sbin/dnsmasq", there=True)),
    ),
    Fault("ip-forward-off", HOST, "on the whole host", ways.setting("ipv4/ip_forward", "0"), cuts=(ALONE,)),
    Fault("ip-forward-off", HOST, "on the uplink", ways.setting("ipv4/conf/uplink/forwarding", "0"), cuts=(ALONE,)),
    Fault(
        "ip-forward-off", ALONE, "on a bridge", ways.setting(f"ipv4/conf/{_BR[ALONE]}/forwarding", "0"), cuts=(ALONE,)
    ),
    Fault("bridge-netfilter", (DEFAULT, HOST), "a rule drops frames within a bridge", ways.frames_dropped),
    Fault("bridge-netfilter", (LIVE, HOST), "only one bridge asks iptables", ways.frames_dropped_by_the_bridge),
    Fault("rp-filter", "second", "answers come by another uplink", ways.answers_by_another_uplink),
    Fault("rp-filter", "second", "questions come by the second of two ways out", ways.asked_by_the_second_uplink),
    Fault("conntrack-full", HOST, "it is full", ways.connections_full),
    Fault(
        "subnet-overlap", ALONE, "a VPN's link has an address there", ways.link_with("10.44.1.200/25"), cuts=(ALONE,)
    ),
    Fault(
        "subnet-overlap",
        ALONE,
        "a route leads part of it elsewhere",
        ways.lines(
            "ip route add 10.44.1.128/25 via 203.0.113.1 dev uplink", back=["ip route del 10.44.1.128/25 dev uplink"]
        ),
        cuts=(ALONE,),
    ),
    Fault("subnet-overlap", ALONE, "somebody had it first", ways.overlapped_before_its_start(ALONE)),
    Fault("port-53-taken", ALONE, "on the gateway while the network was down", ways.port_taken_while_stopped(ALONE)),
    Fault("port-53-taken", NAMES, "on the gateway after a crash", ways.port_taken_after_a_crash(NAMES)),
    Fault("port-53-taken", "late", "on all addresses", ways.port_taken_everywhere),
    # libvirt
    Fault("network-undefined", WAY, "machines want it", ways.undefined(WAY)),
    Fault("network-undefined", DEFAULT, "its file was damaged", ways.lost_by_libvirt(DEFAULT)),
    Fault("network-undefined", "nope", "there is none of that name", ways.nothing, ("network", "nope")),
    Fault("bridge-not-ours", ALONE, "a bridge of that name was first", ways.bridge_of_somebody(ALONE, "bridge")),
    Fault("bridge-not-ours", FOUND, "another link of that name was first", ways.bridge_of_somebody(FOUND, "veth")),
    Fault("bridge-not-ours", ALONE, "it was made anew by hand", ways.bridge_made_by_hand),
    Fault("network-inactive", ALONE, "a cluster's was stopped", ways.stopped(ALONE)),
    Fault("network-inactive", DEFAULT, "it was stopped under its machine", ways.stopped(DEFAULT)),
    Fault("network-inactive", "idle", "it is asked for", ways.not_started_by_itself, ("network", "idle")),
    Fault("hook-missing", HOST, "it was removed", ways.file(HOOK_PATH, None)),
    Fault("hook-missing", HOST, "it is not executable", ways.hook_of_mode(0o644)),
    Fault("hook-missing", HOST, "somebody wrote another", ways.file(HOOK_PATH, lambda _: "#!/bin/sh\nexit 0\n")),
    Fault(
        "config-drift",
        ALONE,
        "a definition was edited",
        ways.edited("net-", ALONE, "<domain name='alone.internal'", "<domain name='other.internal'"),
    ),
    Fault(
        "config-drift",
        NAMES,
        "what runs was changed",
        ways.updated(NAMES, "dns-host", "<host ip='10.44.3.77'><hostname>stranger</hostname></host>", "--live"),
    ),
    Fault(
        "config-drift",
        DEFAULT,
        "a network of others was edited",
        ways.edited("net-", DEFAULT, "192.168.122.254", "192.168.122.199"),
    ),
    Fault(
        "config-drift",
        GUEST,
        "a running machine was edited",
        ways.edited("", GUEST, "<vcpu placement='static'>1</vcpu>", "<vcpu placement='static'>2</vcpu>"),
    ),
    Fault(
        "config-drift",
        ALONE,
        "a file of a gateway was edited",
        ways.of_clusters(
            breakages.edited("ai-how-alone-network.servers", ("", "server=/elsewhere.test/192.0.2.1")),
        ),
    ),
    Fault(
        "config-drift",
        ALONE,
        "it does not start by itself any more",
        ways.lines(f"virsh net-autostart {ALONE} --disable", back=[f"virsh net-autostart {ALONE}"]),
    ),
    # Bridges
    Fault("bridge-missing", ALONE, "it was deleted", ways.deleted_bridge(ALONE)),
    Fault("bridge-missing", NAMES, "it was renamed", ways.renamed_bridge(NAMES)),
    Fault("bridge-down", ALONE, "a cluster's", ways.down(_BR[ALONE])),
    Fault("bridge-down", DEFAULT, "with a machine on it", ways.down(DEFAULT_BRIDGE)),
    Fault("bridge-address-missing", ALONE, "it was removed", ways.without_address(ALONE)),
    Fault("bridge-address-missing", NAMES, "another one is there", ways.without_address(NAMES, "10.44.3.254/24")),
    Fault("bridge-address-missing", DEFAULT, "of another size", ways.without_address(DEFAULT, f"{DEFAULT_GATEWAY}/32")),
    Fault(
        "bridge-address-missing",
        DEFAULT,
        "its route was deleted",
        ways.lines(
            f"ip route delete 192.168.122.0/24 dev {DEFAULT_BRIDGE}",
            back=[
                f"ip route add 192.168.122.0/24 dev {DEFAULT_BRIDGE} proto kernel scope link src {DEFAULT_GATEWAY}",
            ],
        ),
        cuts=(DEFAULT,),
    ),
    # dnsmasq
    Fault("dnsmasq-dead", ALONE, "it was killed", ways.killed(ALONE)),
    Fault("dnsmasq-dead", DEFAULT, "without a trace, and not of ours", ways.killed(DEFAULT, trace=False)),
    Fault("dnsmasq-unresponsive", ALONE, "it is stopped", ways.halted(ALONE)),
    Fault(
        "dnsmasq-unresponsive",
        LIVE,
        "somebody drops questions of all",
        ways.dropped("lo", f"ip daddr {gateway_of(LIVE)} udp dport 53"),
    ),
    Fault(
        "dnsmasq-unresponsive",
        LIVE,
        "somebody drops DNS of the nodes",
        ways.dropped(_BR[LIVE], "udp dport 53"),
    ),
    Fault(
        "dnsmasq-unresponsive",
        LIVE,
        "somebody drops DHCP of the nodes",
        ways.dropped(_BR[LIVE], "udp dport 67"),
    ),
    Fault(
        "dnsmasq-unresponsive",
        LIVE,
        "somebody drops the answers",
        ways.lines(f"iptables -I OUTPUT -o {_BR[LIVE]} -j DROP", back=[f"iptables -D OUTPUT -o {_BR[LIVE]} -j DROP"]),
    ),
    Fault("dns-loop", ("first", "second"), "two networks ask each other", ways.asking_each_other),
    Fault("dns-loop", DEFAULT, "the host's resolver asks a gateway that asks it", ways.resolver_asks_gateway),
    Fault(
        "dns-loop",
        "selfish",
        "a gateway asks itself",
        ways.network("selfish", 4, inside="<dns><forwarder addr='10.66.4.1'/></dns>"),
    ),
    Fault("dns-gateway-not-listed", "told-network", "a cluster's configuration", ways.cluster_told_others),
    Fault(
        "dns-gateway-not-listed",
        "elsewhere",
        "an option of a network of others",
        ways.network(
            "elsewhere", 5, inside="<domain name='elsewhere.test' localOnly='yes'/>", options=("dhcp-option=6,8.8.8.8",)
        ),
    ),
    Fault(
        "dhcp-range-outside-subnet",
        "beyond",
        "a reservation",
        ways.network("beyond", 6, dhcp=f"<host mac='{ways.OTHERS[0]}' ip='10.99.0.5'/>"),
    ),
    Fault(
        "dhcp-range-outside-subnet",
        "beyond",
        "the only range",
        ways.only_a_range_outside,
    ),
    Fault("dhcp-pool-exhausted", "small", "all is given", ways.leases_of_strangers("small", 7, reserved=False)),
    Fault(
        "dhcp-pool-exhausted",
        "small",
        "reserved addresses outside are counted, too",
        ways.leases_of_strangers("small", 7, reserved=True),
    ),
    Fault(
        "rogue-dhcp",
        DEFAULT,
        "with addresses of the network",
        ways.second_server("192.168.122.3", "192.168.122.100", "192.168.122.110"),
    ),
    Fault(
        "rogue-dhcp",
        DEFAULT,
        "with addresses of its own",
        ways.second_server("192.168.1.1", "192.168.1.100", "192.168.1.110"),
    ),
    Fault("duplicate-mac", DEFAULT, "a machine was copied", ways.running("copy", DEFAULT, TINY_MAC)),
    Fault(
        "duplicate-mac",
        ALONE,
        "a stranger has a node's",
        lambda scene: ways.running("copy", ALONE, mac_of("alone-controller"))(scene),
    ),
    Fault("duplicate-client-id", "twins", "both get one address", ways.one_identifier),
    Fault("duplicate-address", LIVE, "a stranger has a node's", ways.stranger(_BR[LIVE], GUEST_IP)),
    Fault("duplicate-address", DEFAULT, "a stranger has the gateway's", ways.stranger(DEFAULT_BRIDGE, DEFAULT_GATEWAY)),
    Fault("stale-lease", "former", "an address was reserved that somebody had", ways.leased_then_reserved),
    Fault(
        "stale-lease",
        ALONE,
        "a lease of an earlier life",
        ways.remembered_lease(ALONE, lambda: breakages.STRANGER, "10.44.1.2"),
    ),
    Fault(
        "lease-mismatch",
        TINY,
        "an address was reserved for who had another",
        ways.updated(DEFAULT, "ip-dhcp-host", f"<host mac='{TINY_MAC}' ip='192.168.122.77'/>", "--live", "--config"),
    ),
    Fault(
        "lease-mismatch",
        GUEST,
        "a lease of an earlier life",
        ways.remembered_lease(LIVE, lambda: mac_of(GUEST), "10.44.9.77"),
    ),
    Fault("resolver-route-missing", NAMES, "its file was removed", ways.resolver_file(None)),
    Fault(
        "resolver-route-missing",
        NAMES,
        "its file names another server",
        ways.resolver_file(lambda text: text.replace(gateway_of(NAMES), "10.44.3.9")),
    ),
    Fault(
        "resolver-route-missing",
        NAMES,
        "programs ask another resolver",
        ways.unknown(ways.file("/etc/resolv.conf", lambda _: "nameserver 8.8.8.8\n")),
    ),
    # The firewall
    Fault("firewall-rules-missing", HOST, "everything was flushed", ways.everything_flushed, cuts=(DEFAULT, ALONE)),
    Fault(
        "firewall-rules-missing",
        (DEFAULT, HOST),
        "libvirt's were flushed",
        ways.libvirts_chains_flushed("filter", "nat"),
        cuts=(DEFAULT,),
    ),
    Fault(
        "firewall-rules-missing",
        (*CLUSTERS, HOST),
        "our table was deleted",
        ways.of_clusters(RULES("delete table inet ai_how")),
        cuts=(ALONE,),
    ),
    Fault("forward-drop-policy", WAY, "Docker came later", ways.docker_started, cuts=(WAY,)),
    Fault(
        "forward-drop-policy", HOST, "a table of somebody's", ways.policy_of_a_table("forward"), cuts=(DEFAULT, ALONE)
    ),
    Fault(
        "forward-drop-policy",
        ALONE,
        "a rule of somebody's",
        ways.lines(
            f"iptables -I FORWARD -i {_BR[ALONE]} -j DROP", back=[f"iptables -D FORWARD -i {_BR[ALONE]} -j DROP"]
        ),
        cuts=(ALONE,),
    ),
    Fault(
        "forward-drop-policy",
        ALONE,
        "before it is routed",
        ways.lines(
            f"iptables -t raw -I PREROUTING -i {_BR[ALONE]} -j DROP",
            back=[f"iptables -t raw -D PREROUTING -i {_BR[ALONE]} -j DROP"],
        ),
        cuts=(ALONE,),
    ),
    Fault(
        "forward-drop-policy",
        ALONE,
        "after it was routed",
        ways.lines(
            "nft add table inet theirs",
            "nft add chain inet theirs late '{ type filter hook postrouting priority 0; }'",
            "nft add rule inet theirs late ip saddr 10.44.1.0/24 oifname uplink drop",
            back=["nft delete table inet theirs"],
        ),
        cuts=(ALONE,),
    ),
    Fault("nat-missing", DEFAULT, "libvirt's rules were deleted", ways.libvirts_chains_flushed("nat"), cuts=(DEFAULT,)),
    Fault(
        "nat-missing",
        HOST,
        "our chain was flushed",
        ways.of_clusters(RULES("flush chain inet ai_how postrouting")),
        cuts=(ALONE,),
    ),
    Fault(
        "nat-missing",
        ALONE,
        "a network is not among ours",
        ways.of_clusters(RULES(f"{TAKE} masqueraded {{ 10.44.1.0/24 }}")),
        cuts=(ALONE,),
    ),
    Fault(
        "isolation-open",
        HOST,
        "our denial was deleted",
        ways.of_clusters(breakages.without_rule("other-cluster", "between")),
    ),
    Fault(
        "isolation-open",
        HOST,
        "a chain of ours was flushed",
        ways.of_clusters(RULES("flush chain inet ai_how to_host")),
    ),
    Fault(
        "isolation-open",
        HOST,
        "two were made peers",
        ways.of_clusters(
            RULES(f"{ADD} peers {{ {_BR[ALONE]} . {_BR[LIVE]}, {_BR[LIVE]} . {_BR[ALONE]} }}"),
        ),
    ),
    Fault(
        "isolation-open",
        DEFAULT,
        "libvirt's rejection was deleted",
        ways.libvirts_rule_deleted("filter", "LIBVIRT_FWI", f"-o {DEFAULT_BRIDGE} -j REJECT"),
    ),
    # The uplink
    Fault(
        "uplink-missing",
        HOST,
        "there is no default route",
        ways.lines("ip route del default", back=["ip route add default via 203.0.113.1 dev uplink"]),
    ),
    Fault("uplink-missing", HOST, "the link is down", ways.lines("ip link set uplink down", back=ways.WITH_UPLINK)),
    Fault(
        "uplink-missing",
        HOST,
        "the router is not there",
        ways.lines("ip route replace default via 203.0.113.99 dev uplink", back=ways.WITH_UPLINK),
    ),
    Fault(
        "uplink-missing",
        HOST,
        "the route says unreachable",
        ways.lines(
            "ip route replace unreachable default", back=["ip route del unreachable default", *ways.WITH_UPLINK]
        ),
    ),
    Fault("mtu-mismatch", (_BR[LIVE], LIVE, GUEST), "a machine's tap is too narrow", ways.narrow(GUEST, 1300)),
    Fault(
        "mtu-mismatch",
        (_BR[NAMES], NAMES),
        "a bridge is too narrow",
        ways.lines(f"ip link set {_BR[NAMES]} mtu 1300", back=[f"ip link set {_BR[NAMES]} mtu 1500"]),
    ),
    Fault(
        "mtu-mismatch",
        "uplink",
        "the way out is as narrow as a tunnel",
        ways.lines("ip link set uplink mtu 1400", back=["ip link set uplink mtu 1500"]),
    ),
    Fault(
        "dns-upstream-dead",
        "lonely",
        "a network's forwarder is not there",
        ways.network("lonely", 8, inside=f"<dns><forwarder addr='{ways.NOWHERE}'/></dns>"),
    ),
    Fault("dns-upstream-dead", HOST, "nobody outside answers", ways.servers_outside("drop")),
    Fault("consul-unreachable", FOUND, "it was killed", ways.consul_killed),
    Fault("consul-unreachable", FOUND, "it is stopped", ways.consul_stopped),
    Fault(
        "consul-unreachable",
        FOUND,
        "its DNS port is blocked",
        ways.dropped("lo", "udp dport 8600"),
    ),
    # Machines
    Fault("vm-undefined", "nobody", "there is none of that name", ways.nothing, ("vm", "nobody")),
    Fault(
        "vm-undefined",
        "alone-compute-01",
        "a node was undefined",
        ways.gone_from_libvirt("alone-compute-01"),
        ("vm", "alone-compute-01"),
    ),
    Fault("vm-not-running", "idle", "it is shut off, and asked for", ways.destroyed("idle"), ("vm", "idle")),
    Fault("vm-not-running", TINY, "it is paused", ways.lines(f"virsh suspend {TINY}", back=[f"virsh resume {TINY}"])),
    Fault("vm-not-running", "crashed", "it crashed, and shall always run", ways.crashed),
    Fault(
        "vm-wrong-network",
        GUEST,
        "plugged into another while it runs",
        ways.on_another_network(GUEST, ALONE, live=True),
    ),
    Fault(
        "vm-wrong-network",
        "alone-controller",
        "defined in another",
        ways.on_another_network("alone-controller", DEFAULT, live=False),
    ),
    Fault("vm-wrong-network", GUEST, "its tap was moved", ways.off_its_bridge(GUEST, _BR[ALONE])),
    Fault("vm-tap-detached", GUEST, "from its bridge", ways.off_its_bridge(GUEST)),
    Fault("vm-tap-detached", "tapless", "it was deleted", ways.without_tap),
    Fault("vm-link-down", GUEST, "the host's end", ways.tap_down(GUEST)),
    Fault("vm-link-down", GUEST, "unplugged by libvirt", ways.unplugged(GUEST)),
    Fault(
        "vm-no-lease",
        "mute",
        "it asks for none",
        ways.at_once(ways.running("mute", DEFAULT, ways.OTHERS[7]), ways.patience_over),
    ),
    Fault("vm-no-lease", GUEST, "it gave its own back", ways.at_once(ways.lease_given_back, ways.patience_over)),
    Fault("vm-guest-misconfigured", GUEST, "it has no default route", ways.misconfigured("ip route del default")),
    Fault(
        "vm-guest-misconfigured",
        GUEST,
        "it asks another DNS server",
        ways.misconfigured("echo nameserver 9.9.9.9 > /etc/resolv.conf"),
    ),
    Fault(
        "vm-guest-misconfigured",
        GUEST,
        "it has an address of its own",
        ways.misconfigured(
            "ip addr flush dev eth0; ip addr add 10.44.9.200/24 dev eth0; ip route add default via 10.44.9.1"
        ),
    ),
)

#: Identifiers of which no fault can be made here, and why.
CANNOT_BE_MADE: Mapping[str, str] = {}

#: Identifiers that come about in one way alone, and why.
ONE_WAY: Mapping[str, str] = {
    "conntrack-full": "it is full or not; the limit is the kernel's, and cannot be set in a lab",
    "outdated-package": "one program is looked at; a real one of that age is not in the archive any more",
    "duplicate-client-id": "dnsmasq keeps one lease for an identifier, so that both always end at one address",
}

#: Two faults that have nothing to do with each other, by identifier and way.
PAIRS: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("ip-forward-off", "on the whole host"), ("dnsmasq-dead", "it was killed")),
    (("bridge-down", "a cluster's"), ("vm-tap-detached", "from its bridge")),
    (("subnet-overlap", "a VPN's link has an address there"), ("vm-link-down", "the host's end")),
    (("nat-missing", "libvirt's rules were deleted"), ("resolver-route-missing", "its file was removed")),
    (("dnsmasq-unresponsive", "it is stopped"), ("consul-unreachable", "it was killed")),
    (("uplink-missing", "there is no default route"), ("bridge-address-missing", "it was removed")),
    (("hook-missing", "it was removed"), ("vm-guest-misconfigured", "it has no default route")),
    (("duplicate-address", "a stranger has a node's"), ("vm-not-running", "it is paused")),
)

#: A fault by identifier and way, a narrower question, and whether the fault is its answer.
QUESTIONS: tuple[tuple[tuple[str, str], tuple[str, ...], bool], ...] = (
    (("bridge-down", "a cluster's"), ("networks",), True),
    (("dnsmasq-dead", "it was killed"), ("dnsmasq",), True),
    (("dnsmasq-dead", "it was killed"), ("network", ALONE), True),
    (("dnsmasq-dead", "it was killed"), ("network", NAMES), False),
    (("ip-forward-off", "on the whole host"), ("network", NAMES), True),
    (("vm-tap-detached", "from its bridge"), ("vm", GUEST), True),
    (("vm-tap-detached", "from its bridge"), ("vm", TINY), False),
    (("bridge-down", "with a machine on it"), ("vm", TINY), True),
)

#: What looks like a fault, and is none.
HARMLESS: Mapping[str, ways.Breaks] = {
    "a VPN with addresses of its own": ways.link_with("10.200.0.1/24"),
    "strict filtering where every way back is the same": ways.setting("ipv4/conf/all/rp_filter", "1"),
    "a second way out": ways.second_way_out,
    "a network that nobody wants is off": ways.not_started_by_itself,
    "a machine that is off": ways.defined("off", DEFAULT, ways.OTHERS[6]),
    "a machine that has just been started": ways.running("young", DEFAULT, ways.OTHERS[6]),
    "a lease that has expired": ways.expired_lease(ALONE, breakages.STRANGER, "10.44.1.2"),
    "a network that may leave by one link alone": ways.network("single", 12, forward="mode='nat' dev='uplink'"),
    "a table of somebody's that counts": ways.policy_of_a_table("forward", "accept"),
    "a table of somebody's that accepts bridges by their kind": ways.lines(
        "nft add table inet theirs",
        "nft add chain inet theirs through '{ type filter hook forward priority 0; }'",
        "nft add rule inet theirs through 'meta iifkind \"bridge\" accept'",
        "nft add rule inet theirs through 'ct state & (established | related) != 0' accept",
        "nft add rule inet theirs through drop",
        back=["nft delete table inet theirs"],
    ),
    "frames within bridges pass by iptables or not": ways.setting("bridge/bridge-nf-call-iptables", "0"),
}


def fault(identifier: str, way: str) -> Fault:
    """The one fault of that name."""
    (found,) = (each for each in FAULTS if (each.id, each.way) == (identifier, way))
    return found
