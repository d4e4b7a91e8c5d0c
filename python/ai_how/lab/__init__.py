"""The lab: a sealed place to run all of ai-how, with its own libvirt and, on request, a pretend internet.

A command in the lab has its own network, mounts, processes, hostname and libvirtd. The host's libvirt is not there,
nothing leaves, and everything dies with the lab. The caller's files (working directory, home, /tmp) are the real ones.

    spec.py      what a lab shall have
    session.py   the outside: open a lab, run commands in it, close it
    enter.py     one command inside
    needs.py     what the host must offer first
    init.py      the inside: process 1 of the lab
    mounts.py    the lab's view of the file system
    internet.py  the pretend internet and its addresses
"""

from ai_how.lab.internet import INTERNET, Internet
from ai_how.lab.needs import unavailable
from ai_how.lab.session import Lab, cache_directory, has_internet, inside, open_lab, run
from ai_how.lab.spec import LabSpec

__all__ = [
    "INTERNET",
    "Internet",
    "Lab",
    "LabSpec",
    "cache_directory",
    "has_internet",
    "inside",
    "open_lab",
    "run",
    "unavailable",
]
