"""Checks of the rules that packets pass, everybody's: what drops, what is gone, what leaves with the wrong address."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ai_how.diagnose.checks.base import HOST, advice, check, of_host, of_network, of_networks, repair
from ai_how.diagnose.checks.clusters import mend
from ai_how.diagnose.facts import Facts, Network, Part
from ai_how.diagnose.finding import NO_FIX, Answer, Command, Finding, Fix
from ai_how.diagnose.rules import (
    Change,
    Lack,
    Missing,
    OursChanged,
    Stopped,
    Way,
    asking_stopped,
    forwarding_stopped,
    libvirt_rules_missing,
    libvirts_chains_are_whole,
    not_masqueraded,
    ours_changed,
    within_stopped,
)
from ai_how.host import iptables
from ai_how.resources.firewall import TABLE

#: From this version on libvirt makes its rules by nftables or by iptables, as it is built and configured.
_TWO_BACKENDS = (10, 4)

#: Lines of evidence at most: a flushed table has many.
_MOST = 8


@check("firewall-rules-missing", "Are all rules there that belong to networks?", Part.NETWORKS, Part.FIREWALL)
def there(facts: Facts) -> Iterator[Finding]:
    ours = _ours(facts)
    lacking = [each for each in _libvirts(facts) if each.kind in (Lack.WHOLE, Lack.ACCEPT)]
    whole = [each for each in lacking if each.kind is Lack.WHOLE]
    gone = Change.GONE in ours.kinds
    if gone or whole:
        what = [*(["ai-how's own"] if gone else []), *(["libvirt's"] if whole else [])]
        rules = (*(ours.lines if gone else ()), *(line for each in whole for line in each.rules))
        yield of_host(
            Answer.FAIL,
            f"{' and '.join(what)} firewall rules are gone: somebody flushed them",
            *_some(rules),
            fix=_again(facts, gone=gone, libvirt=bool(whole)),
        )
    elif Change.OTHER in ours.kinds and not {Change.NAT, Change.ISOLATION} & ours.kinds:
        yield of_host(
            Answer.FAIL,
            "ai-how's own firewall rules are not as they were loaded",
            *_some(ours.lines),
            fix=_again(facts, gone=True, libvirt=False),
        )
    if ours.cut_off:
        yield of_host(
            Answer.FAIL,
            "whoever replaced ai-how's own firewall rules was killed at that: they are in tables of the moment",
            fix=_again(facts, gone=True, libvirt=False),
        )
    for each in lacking:
        if each.kind is Lack.ACCEPT:
            for network in _named(facts, each.networks):
                yield of_network(
                    network,
                    Answer.FAIL,
                    "libvirt's firewall rules that let its packets pass are gone",
                    *_some(each.rules),
                    fix=_again(facts, gone=False, libvirt=True),
                )
    for table in facts.firewall.unread:
        yield of_host(Answer.UNKNOWN, f"nft cannot say its table {table}, so that what it does is not known")


@check("forward-drop-policy", "Do other firewalls let through what networks forward?", Part.NETWORKS, Part.FIREWALL)
def forwarded(facts: Facts) -> Iterator[Finding]:
    found = forwarding_stopped(facts.firewall, _ways(facts), _uplink(facts))
    yield from _stopping(facts, found, "what nodes send out, or what comes back, is dropped")


@check(
    "bridge-netfilter", "Do firewalls let through what passes within a bridge?",
    Part.NETWORKS, Part.FIREWALL, Part.SETTINGS,
)  # fmt: skip
def within(facts: Facts) -> Iterator[Finding]:
    everywhere = facts.settings.get("net/bridge/bridge-nf-call-iptables") == "1"
    asking = [each.name for each in facts.links.values() if each.calls_iptables]
    ways = [each for each in _ways(facts) if everywhere or each.bridge in asking]
    found = within_stopped(facts.firewall, ways, calls_iptables=True)
    yield from _stopping(
        facts,
        found,
        "packets between nodes of one network are dropped, because they pass iptables (bridge-nf-call-iptables)",
    )


@check("dnsmasq-unresponsive", "Do firewalls let nodes ask their gateway?", Part.NETWORKS, Part.FIREWALL)
def asked(facts: Facts) -> Iterator[Finding]:
    ways = {each.name for each in facts.active if each.dns or each.serves_dhcp}
    found = asking_stopped(facts.firewall, [each for each in _ways(facts) if each.network in ways])
    for finding in _stopping(facts, found, "what nodes ask of their gateway is dropped"):
        yield replace(finding, answer=Answer.FAIL)


def _stopping(facts: Facts, found: Iterable[Stopped], what: str) -> Iterator[Finding]:
    """One finding for each chain that stops all, or all of a kind that somebody may not have chosen to stop."""
    chains: dict[tuple[str, str], list[Stopped]] = defaultdict(list)
    for each in found:
        if set(each.protocols) - {"icmp"}:
            chains[each.owner, each.where].append(each)
    for (owner, where), several in chains.items():
        names = list(dict.fromkeys(each.network for each in several))
        networks = _named(facts, names)
        kinds = sorted({kind for each in several for kind in each.protocols})
        whole = all(each.whole for each in several)
        some = "" if whole else f" ({', '.join(kinds)})"
        yield of_networks(
            names,
            Answer.FAIL if whole else Answer.WARN,
            f"{what}{some} by {owner}, in {where}",
            dict.fromkeys(each.why for each in several),
            _opened(networks, several),
        )


def _opened(networks: Sequence[Network], several: Sequence[Stopped]) -> Fix:
    # Where it is iptables' table the engine has passages of its own, which come back after a restart.
    guarded = next((each for each in networks if each.guarded), None)
    policy = all(each.where.startswith("ip filter ") and each.why.startswith("the policy") for each in several)
    names = {each.name for each in networks if each.guarded} if policy else set()
    others = [each for each in several if each.network not in names]
    commands = _once(_unmarked(command) for each in others for command in each.open)
    undo = _once(_unmarked(command) for each in others for command in each.undo)
    if all(each.undo for each in others):
        ours = mend(guarded.cluster, guarded.name) if guarded is not None and names else NO_FIX
        return replace(ours, commands=(*ours.commands, *commands), automatic=True, undo=undo)
    looks = _once(each.look for each in others if each.look)
    if not commands:
        return advice(
            "Look at it, as root; who owns it must take that away, or let these networks pass before:", *looks
        )
    return advice("Open it, as root; and have whoever owns those rules do so for good:", *commands, *looks)


def _unmarked(command: Command) -> Command:
    """Not as a passage of ours, which the engine would not know."""
    size = len(iptables.MARK)
    return (*command[:-size], *iptables.MARK[-2:]) if command[-size:] == iptables.MARK else command


def _once(commands: Iterable[Command]) -> tuple[Command, ...]:
    return tuple(dict.fromkeys(commands))


@check(
    "nat-missing",
    "Does what leaves get an address that answers come back to?",
    Part.NETWORKS,
    Part.FIREWALL,
    Part.ROUTES,
)
def masqueraded(facts: Facts) -> Iterator[Finding]:
    found = not_masqueraded(facts.firewall, _ways(facts), _uplink(facts))
    guarded = {each.name for each in facts.active if each.guarded}
    # A rule of somebody's before ours and libvirt's is not put right by making these anew.
    theirs = [each for each in found if each[1].startswith("a rule of ") and f" {TABLE} " not in each[1]]
    rest = [each for each in found if each not in theirs]
    ours = [each for each in rest if each[0] in guarded]
    libvirts = [each for each in rest if each[0] not in guarded]
    if ours:
        yield _leaving_as_it_is(ours, _again(facts, gone=True, libvirt=False))
    if libvirts:
        yield _leaving_as_it_is(libvirts, _again(facts, gone=False, libvirt=True))
    if theirs:
        away = "Take that rule away, or have it pass over what these networks send; who owns it must do so for good."
        yield _leaving_as_it_is(theirs, advice(away))


def _leaving_as_it_is(found: Sequence[tuple[str, str]], fix: Fix) -> Finding:
    summary = "what its nodes send out keeps its private address: no answer comes back"
    why = _some(list(dict.fromkeys(why for _, why in found)))
    return of_networks([name for name, _ in found], Answer.FAIL, summary, why, fix)


@check("isolation-open", "Are clusters kept apart as they shall be?", Part.NETWORKS, Part.FIREWALL)
def apart(facts: Facts) -> Iterator[Finding]:
    ours = _ours(facts)
    if Change.ISOLATION in ours.kinds and Change.GONE not in ours.kinds:
        guarded = [each for each in facts.active if each.guarded]
        text = "\n".join(ours.lines)
        concerned = [each for each in guarded if each.bridge in text] or guarded
        yield Finding(
            "",
            concerned[0].name if len(concerned) == 1 else HOST,
            Answer.FAIL,
            "rules that keep clusters apart are gone, or others let through what they deny",
            (*_some(ours.lines), f"networks: {', '.join(each.name for each in concerned)}"),
            _again(facts, gone=True, libvirt=False),
        )
    for each in _libvirts(facts):
        if each.kind is Lack.ISOLATION:
            for network in _named(facts, each.networks):
                yield of_network(
                    network,
                    Answer.FAIL,
                    "libvirt's rules are gone that reject what comes from other networks",
                    *_some(each.rules),
                    fix=_again(facts, gone=False, libvirt=True),
                )


def _again(facts: Facts, *, gone: bool, libvirt: bool) -> Fix:
    """Have the rules made again: ours by the engine, libvirt's by libvirt, which does it at SIGHUP."""
    guarded = next((each for each in (*facts.active, *facts.networks) if each.guarded), None)
    cluster = guarded.cluster if gone and guarded is not None else ""
    if cluster and guarded is not None and not libvirt:
        return mend(cluster, guarded.name)
    if facts.daemon is None:
        return advice("Start libvirt's daemon: it makes its rules anew.")
    chains = libvirts_chains_are_whole(facts.firewall)
    if chains and not cluster:
        return repair(("kill", "-HUP", str(facts.daemon)))
    unit = "libvirtd" if facts.programs.get("libvirtd") else "virtnetworkd"
    restart = (
        "The chains are gone, too, which libvirt makes only when it starts. Without ai-how: systemctl restart "
        f"{unit} (machines keep running, and their links)."
    )
    if chains or _older(facts.libvirt.version, _TWO_BACKENDS):
        text = "" if chains else restart
        return Fix((("ai-how", "doctor", "--fix"),), automatic=True, mend=cluster, rules=True, advice=text)
    # Which of its two backends it uses, and so which chains it wants, is not seen once they are gone.
    after = [("ai-how", "doctor", "--fix")] if cluster else []
    return advice(restart, ("systemctl", "restart", unit), *after)


def _older(version: str, than: tuple[int, ...]) -> bool:
    numbers = tuple(int(each) for each in version.split(".") if each.isdigit())
    return bool(numbers) and numbers < than


def _ours(facts: Facts) -> OursChanged:
    return ours_changed(facts.firewall) if facts.firewall.loaded is not None else OursChanged()


def _libvirts(facts: Facts) -> list[Missing]:
    return libvirt_rules_missing(facts.firewall, _ways(facts))


def _ways(facts: Facts) -> list[Way]:
    return [
        Way(
            each.name,
            each.bridge,
            each.subnet,
            each.gateway.ip,
            each.forward,
            each.cluster,
            each.guarded,
            next(iter(each.devices), ""),  # of several libvirt's rules name the first
        )
        for each in facts.active
        if each.gateway is not None and each.subnet is not None and each.forward in ("nat", "route", "open", "none")
    ]


def _uplink(facts: Facts) -> str:
    return next(iter(facts.uplinks), "")


def _named(facts: Facts, names: Iterable[str]) -> list[Network]:
    return [each for each in facts.networks if each.name in set(names)]


def _some(lines: Sequence[str]) -> tuple[str, ...]:
    more = (f"and {len(lines) - _MOST} more",) if len(lines) > _MOST else ()
    return (*lines[:_MOST], *more)
