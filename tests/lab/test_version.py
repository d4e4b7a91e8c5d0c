"""`ai-how version -v` where there is a libvirt to ask."""

from __future__ import annotations

import json
import re
import subprocess
import sys


def test_versions_of_libvirt_and_qemu_are_those_that_they_say_themselves() -> None:
    asked = [sys.executable, "-m", "ai_how", "version", "-v", "--json"]
    versions = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout)
    said = subprocess.run(["virsh", "version"], capture_output=True, text=True, check=True, timeout=60).stdout
    libvirt = re.search(r"Using library: libvirt (\S+)", said)
    qemu = re.search(r"Running hypervisor: QEMU (\S+)", said)
    assert libvirt is not None
    assert qemu is not None
    assert versions["libvirt daemon"] == libvirt[1]
    assert versions["qemu"] == qemu[1]
    assert re.fullmatch(r"\d+\.\d+\.\d+", versions["libvirt library"])
