"""What is wrong with the virtual networks here? Looks only, changes nothing; the same as `ai-how doctor`.

    python python/ai_how/examples/network_troubleshooting.py [networks | dnsmasq | network NAME | vm NAME]

Exit code: 0 healthy, 1 something is wrong, 2 wrong use, 3 could not look. LIBVIRT_DEFAULT_URI names another libvirt.
Any Python from 3.11 on will do, ours or the system's (under sudo, say); without libvirt's bindings libvirt is asked by
virsh, and without either it says so and tells what can be told.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# From a checkout, the code beside this script is the one to run, whatever else is installed or is not.
_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from ai_how.diagnose import report
from ai_how.diagnose.doctor import examine
from ai_how.errors import UsageError
from ai_how.host.libvirt import DEFAULT_URI


def main(words: list[str]) -> int:
    """Answer one question on standard output; the exit code."""
    if words and words[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0
    try:
        state = Path(os.environ.get("AI_HOW_STATE") or "cluster_state.json")
        found = examine(os.environ.get("LIBVIRT_DEFAULT_URI") or DEFAULT_URI, words, state)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(report.text(found, findings=bool(words)))
    return found.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
