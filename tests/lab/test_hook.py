"""libvirt's network hook as libvirt runs it: each test in a lab of its own, whose libvirtd starts without hooks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from ai_how.compile.hook import HOOK, LOG
from ai_how.host import memory
from ai_how.lab import Lab
from ai_how.resources.base import METADATA
from ai_how.resources.firewall import NEXT
from ai_how.resources.hook import PATH
from ai_how.resources.policy import write_policy
from ai_how.spec.policy import Firewall, Policy

#: Seconds for what is done in the lab, on a busy machine.
DEADLINE = 300.0

MARK = f"<metadata><m:ai-how xmlns:m='{METADATA}' cluster='c'/></metadata>"
NETWORK = """
<network><name>{name}</name>{mark}<bridge name='{name}' stp='off' delay='0'/>
  <ip address='10.{number}.0.1' netmask='255.255.255.0'/></network>
"""
RESTART = """
pid=$(cat /run/libvirtd.pid); kill "$pid"
while [ -e "/proc/$pid" ]; do sleep 0.02; done
libvirtd -d
until virsh -q list > /dev/null 2>&1; do sleep 0.02; done
"""
#: One call of the provider, in a process of the lab: `call("create", "HOOK")`.
CALL = """
import json, sys
from ai_how.compile.hook import HOOK
from ai_how.host.libvirt import Libvirt
from ai_how.providers import hook
from ai_how.resources.hook import Hook
def cut_off(*_):
    raise KeyboardInterrupt("cut off")
if sys.argv[1] == "cut off":
    hook.write_atomically, sys.argv[1] = cut_off, "create"
    hook._note_who_does_not_know = lambda: None
with Libvirt() as libvirt:
    said = {"create": lambda: hook.create(libvirt, HOOK), "remove": lambda: hook.remove(libvirt, HOOK),
            "undo": lambda: hook.change(libvirt, HOOK, Hook("", "")),
            "known": lambda: hook.hook_known(libvirt), "foreign": lambda: hook.foreign(libvirt, [HOOK.path]),
            "observe": lambda: [hook.observe(libvirt, "") == [HOOK], len(hook.observe(libvirt, ""))]}[sys.argv[1]]()
print(json.dumps(said))
"""
TABLE = {
    "nftables": [
        {"add": {"table": {"family": "inet", "name": "ai_how"}}},
        {"delete": {"table": {"family": "inet", "name": "ai_how"}}},
        {"add": {"table": {"family": "inet", "name": "ai_how"}}},
    ]
}
NONSENSE = '{"nftables": [{"add": {"rule": "nonsense"}}]}'


class Host:
    """A lab, and what is done on it as its administrator."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def sh(self, script: str) -> str:
        ran = self.lab.run(["sh", "-ec", script], timeout=DEADLINE)
        assert ran.returncode == 0, f"{script}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def fails(self, script: str) -> str:
        ran = self.lab.run(["sh", "-ec", script], timeout=DEADLINE)
        assert ran.returncode != 0, f"{script}: {ran.stdout}"
        return ran.stderr

    def hook(self, verb: str) -> object:
        ran = self.lab.run([sys.executable, "-c", CALL, verb], timeout=DEADLINE)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def fails_in_hook(self, verb: str) -> str:
        ran = self.lab.run([sys.executable, "-c", CALL, verb], timeout=DEADLINE)
        assert ran.returncode != 0
        return ran.stderr

    def write(self, path: str | Path, text: str) -> None:
        self.lab.run(["sh", "-c", 'mkdir -p "${1%/*}"; printf %s "$2" > "$1"', "write", str(path), text], check=True)

    def remember(self, name: str, text: str) -> None:
        self.write(memory.DIRECTORY / name, text)

    def start(self, name: str, number: int = 40, mark: str = MARK) -> str:
        """What `virsh net-start` of a new network would do."""
        self.write(f"/run/{name}.xml", NETWORK.format(name=name, number=number, mark=mark))
        return f"virsh -q net-create /run/{name}.xml"

    def tables(self) -> list[str]:
        return self.sh("nft list tables").splitlines()


OURS = "table inet ai_how"


@pytest.fixture
def host(nested_lab: Callable[..., Lab]) -> Host:
    return Host(nested_lab(internet=True))


@pytest.fixture(params=["the system's libvirt", "the new libvirt"])
def either_host(request: pytest.FixtureRequest, nested_lab: Callable[..., Lab]) -> Host:
    if request.param == "the system's libvirt":
        return Host(nested_lab(internet=True))
    return Host(nested_lab(internet=True, libvirt_root=request.getfixturevalue("new_libvirt")))


@pytest.fixture
def hooked(host: Host) -> Host:
    """With the hook, and a table to load."""
    host.hook("create")
    host.remember("firewall.json", json.dumps(TABLE))
    return host


def test_hook_is_there_executable_and_gone_without_a_trace(host: Host) -> None:
    look = "find /etc/libvirt /run /var/lib/ai-how ! -path '/run/libvirt*' -printf '%p %m %y\\n' | sort"
    before = host.sh(look)
    for _ in range(2):
        host.hook("create")
    assert host.hook("observe") == [True, 1]
    assert host.sh(f"cat {PATH}; stat -c %a {PATH} {Path(PATH).parent}") == f"{HOOK.content}755\n755\n"
    for _ in range(2):
        host.hook("remove")
    assert (host.hook("observe"), host.sh(look)) == ([False, 0], before)


def test_directory_with_somebody_elses_hook_stays(host: Host) -> None:
    host.hook("create")
    theirs = Path(PATH).with_name("theirs")
    host.write(theirs, "#!/bin/sh\n")
    host.hook("remove")
    assert host.sh(f"ls {theirs.parent}") == "theirs\n"


def test_directory_that_was_there_before_stays_though_empty(host: Host) -> None:
    host.sh(f"mkdir -p {Path(PATH).parent}")
    host.hook("create")
    host.hook("remove")
    assert host.sh(f"ls -A {Path(PATH).parent}") == ""


@pytest.mark.parametrize("edit", [f"echo true >> {PATH}", f"chmod 644 {PATH}"])
def test_edited_hook_differs_and_is_written_anew(host: Host, edit: str) -> None:
    host.hook("create")
    host.sh(edit)
    assert host.hook("observe") == [False, 1]
    host.hook("create")
    assert host.hook("observe") == [True, 1]


def test_hook_that_nobody_remembers_differs_and_leaves_no_directory_of_its_own(host: Host) -> None:
    host.hook("create")
    host.sh(f"rm {memory.DIRECTORY / 'hook.json'}")
    assert host.hook("observe") == [False, 1]
    host.hook("create")
    assert host.hook("observe") == [True, 1]
    host.hook("remove")
    host.fails(f"ls -d {Path(PATH).parent}")


def test_undo_to_a_hook_that_was_gone_leaves_ours(host: Host) -> None:
    host.hook("create")
    host.hook("undo")
    assert host.hook("observe") == [True, 1]


def test_file_without_our_mark_is_somebody_elses(host: Host) -> None:
    assert host.hook("foreign") == {}
    host.write(PATH, "#!/bin/sh\nexit 0\n")
    assert host.hook("foreign") == {PATH: "a hook that ai-how did not write"}
    assert host.hook("observe") == [False, 0]
    host.sh(f"rm {PATH}; ln -s /nowhere {PATH}")
    assert host.hook("foreign") == {PATH: "something that is no file"}
    host.sh(f"rm {PATH}")
    host.hook("create")
    assert host.hook("foreign") == {}


def test_file_of_somebody_else_in_place_of_ours_is_neither_written_nor_removed(host: Host) -> None:
    host.hook("create")
    theirs = "#!/bin/sh\nexit 0\n"
    host.write(PATH, theirs)
    assert host.hook("observe") == [False, 0]
    assert "NotOurs" in host.fails_in_hook("create")
    host.hook("remove")
    assert host.sh(f"cat {PATH}") == theirs


def test_hook_that_was_cut_off_before_its_file_is_seen_completed_and_removed(host: Host) -> None:
    look = "find /etc/libvirt /run /var/lib/ai-how ! -path '/run/libvirt*' -printf '%p %m %y\\n' | sort"
    before = host.sh(look)
    for after in ("create", "remove"):
        assert "cut off" in host.fails_in_hook("cut off")
        assert host.hook("observe") == [False, 1]
        host.hook(after)
        assert host.hook("observe") == ([True, 1] if after == "create" else [False, 0])
        host.hook("remove")
    assert host.sh(look) == before


def test_libvirt_runs_a_new_hook_without_a_restart(either_host: Host) -> None:
    either_host.remember("firewall.json", json.dumps(TABLE))
    either_host.sh(either_host.start("unknown", 39))
    assert OURS not in either_host.tables()
    either_host.hook("create")
    assert either_host.hook("known") is True
    either_host.sh(either_host.start("ours"))
    assert OURS in either_host.tables()


def test_network_that_somebody_stopped_is_not_started_by_a_reload(host: Host) -> None:
    """Then libvirt learns of the hook when it starts the next time, and that can be asked."""
    host.write("/run/theirs.xml", NETWORK.format(name="theirs", number=41, mark=""))
    host.sh("virsh -q net-define /run/theirs.xml; virsh -q net-autostart theirs")
    host.hook("create")
    host.remember("firewall.json", json.dumps(TABLE))
    assert host.hook("known") is False
    host.sh(host.start("ours"))
    assert OURS not in host.tables()
    assert host.sh("virsh -q net-list --name").split() == ["ours"]
    host.sh(RESTART)
    assert host.hook("known") is True
    host.sh("virsh net-destroy ours")
    host.sh(host.start("ours"))
    assert OURS in host.tables()


def test_first_run_of_the_hook_shows_that_libvirt_knows_it(host: Host) -> None:
    host.write("/run/theirs.xml", NETWORK.format(name="theirs", number=41, mark=""))
    host.sh("virsh -q net-define /run/theirs.xml; virsh -q net-autostart theirs")
    host.hook("create")
    host.sh("kill -HUP $(cat /run/libvirtd.pid); until [ -e /sys/class/net/theirs ]; do sleep 0.02; done")
    host.sh("virsh net-destroy theirs")
    assert host.hook("known") is True


def test_rules_are_loaded_one_transaction_after_another_and_not_while_somebody_else_does(hooked: Host) -> None:
    more = [{"nftables": [{"add": {"table": {"family": family, "name": "ai_how"}}}]} for family in ("arp", "bridge")]
    hooked.remember("firewall.json", "\n".join(map(json.dumps, (TABLE, *more))))
    script = f"""
        flock {memory.DIRECTORY} sh -c 'touch /run/held; echo begun; sleep 1; nft list tables' &
        until [ -e /run/held ]; do sleep 0.02; done
        {hooked.start("ours")}
        wait
    """
    assert hooked.sh(script) == "begun\n"
    ours = [each for each in hooked.tables() if each.endswith(" ai_how")]
    assert ours == [f"table {family} ai_how" for family in ("inet", "arp", "bridge")]


def test_tables_that_somebody_who_was_killed_has_left_in_force_go_with_what_replaces_them(hooked: Host) -> None:
    """All of it at once: line by line they would go before anything else is in force."""
    left = {"family": "inet", "name": NEXT}
    more = [
        {"nftables": [{"add": {"table": {"family": "arp", "name": "ai_how"}}}]},
        {"nftables": [{"delete": {"table": left}}]},
    ]
    hooked.remember("firewall.json", "".join(f"{json.dumps(each)}\n" for each in (TABLE, *more)))
    hooked.sh(f"nft add table inet {NEXT}")
    hooked.sh(hooked.start("ours"))
    assert [each for each in hooked.tables() if "ai_how" in each] == [
        f"table {each} ai_how" for each in ("inet", "arp")
    ]
    hooked.sh(f"virsh net-destroy ours; nft add table inet {NEXT}")
    hooked.remember("firewall.json", f"{json.dumps(more[1])}\n{NONSENSE}\n")
    assert "its rules cannot be loaded" in hooked.fails(hooked.start("ours"))
    assert f"table inet {NEXT}" in hooked.tables(), "what was in force is gone"


@pytest.mark.parametrize("text", [NONSENSE, "", "nonsense", f"{json.dumps(TABLE)}\n{NONSENSE}\n"])
def test_network_of_ours_does_not_start_without_its_rules(hooked: Host, text: str) -> None:
    hooked.remember("firewall.json", text)
    said = hooked.fails(hooked.start("ours"))
    assert "its rules cannot be loaded, so network ours is not started" in said
    assert hooked.sh("virsh -q net-list --name; ls /sys/class/net").split() == ["lo", "uplink"]
    hooked.sh(hooked.start("theirs", 41, mark=""))
    assert hooked.sh("virsh -q net-list --name").split() == ["theirs"]
    hooked.remember("firewall.json", json.dumps(TABLE))
    hooked.sh(hooked.start("ours"))
    assert OURS in hooked.tables()


def test_network_of_ours_does_not_start_where_its_rules_are_gone(host: Host) -> None:
    host.hook("create")
    said = host.fails(host.start("ours"))
    assert "its rules are gone, so network ours is not started" in said
    open_one = MARK.replace(
        "cluster=", f"policy={quoteattr(write_policy(Policy(firewall=Firewall(enabled=False))))} cluster="
    )
    host.sh(host.start("without", 41, mark=open_one))
    host.sh(host.start("theirs", 42, mark=""))
    host.remember("firewall.json", json.dumps(TABLE))
    guarded = MARK.replace("cluster=", f"policy={quoteattr(write_policy(Policy()))} cluster=")
    host.sh(host.start("ours", mark=guarded))
    assert OURS in host.tables()


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": 1}'])
def test_hook_whose_memory_makes_no_sense_is_removed_all_the_same(host: Host, text: str) -> None:
    host.hook("create")
    host.remember("hook.json", text)
    assert host.hook("observe") == [False, 1]
    host.hook("remove")
    assert host.hook("observe") == [False, 0]
    host.fails(f"ls -d {Path(PATH).parent}")
    assert host.sh("ls -A /var/lib/ai-how 2> /dev/null || true") == ""


def test_network_of_somebody_else_makes_the_hook_do_nothing(hooked: Host) -> None:
    hooked.remember("routes.batch", "route add 10.77.0.0/16 via 203.0.113.1\n")
    hooked.sh(hooked.start("theirs", 41, mark=""))
    assert OURS not in hooked.tables()
    assert hooked.sh("ip route show 10.77.0.0/16") == ""
    hooked.sh(hooked.start("ours"))
    assert OURS in hooked.tables()
    assert hooked.sh("ip route show 10.77.0.0/16") != ""


def test_start_puts_back_settings_passages_and_routes(hooked: Host) -> None:
    hooked.remember("sysctl.settings", "/proc/sys/net/ipv4/ip_forward 1\n")
    hooked.remember("passage.rules", "FORWARD ours\nDOCKER-USER ours\nINPUT ours\n")
    routes = ["10.77.0.0/16 via 203.0.113.1", "10.78.0.0/16 via 10.41.0.9", "10.79.0.0/16 via 10.40.0.9"]
    hooked.remember("routes.batch", "".join(f"route add {route} proto 97\n" for route in routes))
    for _ in range(2):
        hooked.sh(hooked.start("ours"))
        assert hooked.sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n"
        for chain, ways in (("FORWARD", ("-o", "-i")), ("DOCKER-USER", ("-o", "-i")), ("INPUT", ("-i",))):
            rules = [line for line in hooked.sh(f"iptables -S {chain}").splitlines() if "ai-how" in line]
            assert rules == [f"-A {chain} {way} ours -m comment --comment ai-how -j ACCEPT" for way in ways]
        shown = [" ".join(line.split()[:3]) for line in hooked.sh("ip route show proto 97").splitlines()]
        assert shown == [routes[0], routes[2]], "the second is behind a network that does not run"
        hooked.sh("virsh net-destroy ours")
    hooked.sh(f"! test -e {LOG}")


def test_what_cannot_be_put_back_is_logged_and_the_network_runs(hooked: Host) -> None:
    hooked.remember("sysctl.settings", "/proc/sys/net/ipv4/no_such 1\n/proc/sys/net/ipv4/ip_forward 1\n")
    hooked.sh(hooked.start("ours"))
    assert hooked.sh("virsh -q net-list --name").split() == ["ours"]
    assert hooked.sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    said = hooked.sh(f"cat {LOG}")
    assert "network ours started" in said
    assert "no_such" in said


def test_resolver_is_told_the_zones_of_a_bridge_that_is_there(hooked: Host) -> None:
    """Of systemd's resolvectl only the call is seen here: the lab has no systemd."""
    # An overlay: the programs of the lab are the machine's own.
    hooked.sh("mkdir /run/over /run/work; printf '#!/bin/sh\\necho \"$@\" >> /run/told\\n' > /run/over/resolvectl")
    hooked.sh("chmod 755 /run/over /run/over/resolvectl")
    hooked.sh("mount -t overlay overlay -o lowerdir=/usr/bin,upperdir=/run/over,workdir=/run/work /usr/bin")
    hooked.remember("resolver.links", "ours 10.40.0.1 c.internal 0.40.10.in-addr.arpa\ngone 10.41.0.1 d.internal\n")
    hooked.sh(hooked.start("ours"))
    assert hooked.sh("cat /run/told").splitlines() == [
        "dns ours 10.40.0.1",
        "domain ours ~c.internal ~0.40.10.in-addr.arpa",
        "default-route ours false",
        *(f"{feature} ours no" for feature in ("llmnr", "mdns", "dnssec", "dnsovertls")),
    ]
