"""The text of libvirt's network hook. It is the same on every host: what to do lies in our memory, not in here."""

from __future__ import annotations

from ai_how.resources.base import METADATA
from ai_how.resources.firewall import NEXT
from ai_how.resources.hook import Hook

#: How our file begins; no other does.
MARK = "#!/bin/sh\n# ai-how's network hook:"

#: Where it says what went wrong after a network had started; libvirt would stop the network if it ended with an error.
LOG = "/run/ai-how-hook.log"

#: There for a moment: the transaction that it has nft carry out.
TRANSACTION = "/run/ai-how-hook.rules"

#: There while the libvirt that runs has not seen the hook; it goes with its first run (providers/hook.py).
UNKNOWN = "/run/ai-how-hook.unknown"

#: In the mark of a network that has none (resources/policy.py), as XML has it.
WITHOUT_RULES = "&quot;firewall&quot;:{&quot;enabled&quot;:false"

_SCRIPT = f"""{MARK} what a restart of the host or of a network loses is put there again.
# Written by ai-how, removed by it. libvirt calls it as `NAME OPERATION SUB-OPERATION EXTRA`, with the network on its
# standard input (https://libvirt.org/hooks.html). It must not ask libvirt anything: libvirt waits for it.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
memory=/var/lib/ai-how

rm -f {UNKNOWN}
case "$2 $3" in
    'start begin' | 'started begin') ;;
    *) exit 0 ;;
esac
network=$(cat)
case "$network" in
    *'{METADATA}'*) ;;
    *) exit 0 ;; # somebody else's network
esac

# Not from the pipe itself: there nft takes what is no JSON for nothing at all.
load() {{
    cat > {TRANSACTION} && nft -j -f {TRANSACTION} > /dev/null
}}

# Rules are there before what they hold: without them libvirt does not start the network, and says why.
if [ "$2" = start ]; then
    case "$network" in
        *'{WITHOUT_RULES}'*) exit 0 ;;
    esac
    if [ ! -e "$memory/firewall.json" ]; then
        echo "ai-how: its rules are gone, so network $1 is not started. ai-how up makes them anew" >&2
        exit 1
    fi
    # One transaction after another: so the rules of clusters that run are replaced without a packet lost. Not while
    # somebody else does the same.
    exec 9< "$memory"
    flock -w 30 9
    lines=$(grep -c '' "$memory/firewall.json")
    number=0
    if nft list tables | grep -q ' {NEXT}$'; then
        # Somebody was killed at that, and these are the rules in force: all of it at once, never without them.
        number=$lines
        {{
            printf '{{"nftables": ['
            sed -e 's/^{{"nftables": \\[//' -e 's/\\]}}$//' -e '$!s/$/,/' "$memory/firewall.json"
            printf ']}}\\n'
        }} | load || lines=0
    fi
    while [ "$number" -lt "$lines" ]; do
        number=$((number + 1))
        sed -n "${{number}}p" "$memory/firewall.json" | load || lines=0
    done
    rm -f {TRANSACTION}
    [ "$lines" -eq 0 ] || exit 0
    echo "ai-how: its rules cannot be loaded, so network $1 is not started. ai-how up makes them anew" >&2
    exit 1
fi

settings() {{
    while read -r path value; do
        echo "$value" > "$path"
    done < "$memory/sysctl.settings"
}}

passages() {{
    while read -r chain bridge; do
        # Docker makes its chain later, and keeps one that it finds.
        iptables -w 5 -n -L "$chain" > /dev/null 2>&1 || iptables -w 5 -N "$chain"
        for way in -i -o; do
            [ "$chain $way" != 'INPUT -o' ] || continue # nothing leaves there
            set -- "$chain" "$way" "$bridge" -m comment --comment ai-how -j ACCEPT
            iptables -w 5 -C "$@" 2> /dev/null || iptables -w 5 -I "$@"
        done
    done < "$memory/passage.rules"
}}

names() {{
    command -v resolvectl > /dev/null || return 0
    while read -r bridge server zones; do
        [ -e "/sys/class/net/$bridge" ] || continue
        set --
        for zone in $zones; do
            set -- "$@" "~$zone"
        done
        resolvectl dns "$bridge" "$server"
        resolvectl domain "$bridge" "$@"
        resolvectl default-route "$bridge" false
        for feature in llmnr mdns dnssec dnsovertls; do
            resolvectl "$feature" "$bridge" no
        done
    done < "$memory/resolver.links"
}}

complaints=$({{
    [ ! -e "$memory/sysctl.settings" ] || settings
    [ ! -e "$memory/passage.rules" ] || passages
    [ ! -e "$memory/resolver.links" ] || names
    # What is there already is refused, and what is behind a network that has not started yet: it comes with that.
    [ ! -e "$memory/routes.batch" ] || ip -force -batch "$memory/routes.batch" 2> /dev/null
}} 2>&1 < /dev/null)
[ -z "$complaints" ] || printf '%s\\n' "$(date): network $1 started" "$complaints" >> {LOG}
exit 0
"""

HOOK = Hook(_SCRIPT, "0755")
