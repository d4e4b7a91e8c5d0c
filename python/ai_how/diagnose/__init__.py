"""What is wrong with a network, and what to do: facts read once, small checks over them, findings as the answer.

    finding.py   what a check says
    facts.py     what is known about the host: frozen data, "could not look" included
    look.py      reads the facts: libvirt, /proc and /sys, and one DNS question per network; changes nothing
    networks.py, dnsmasq.py, machines.py   the checks: facts → findings
    report.py    findings → text and exit code

Runs under a bare interpreter, too: only the standard library, and libvirt's bindings where they are there.
"""
