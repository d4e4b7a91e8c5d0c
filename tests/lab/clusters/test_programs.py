"""The two documented programs, run as they stand by `python -c`, with the machine sizes that they ask for.

Beyond the image's path two things are added to them, because the document leaves them out: the first uses `Path`
without importing it, and the second only builds its configuration.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab.clusters.conftest import COMMAND_DEADLINE

Ran = subprocess.CompletedProcess[str]

BASIC_PROGRAM = """
from ai_how.vm_management.hpc_manager import HPCClusterManager

# Basic cluster configuration
config = {
    "clusters": {
        "hpc": {
            "name": "hpc-cluster",
            "base_image_path": "/path/to/base-image.qcow2",
            "network": {
                "subnet": "192.168.100.0/24",
                "bridge": "br-hpc-cluster"
            },
            "controller": {
                "cpu_cores": 4,
                "memory_gb": 8,
                "disk_gb": 50
            },
            "compute_nodes": [
                {
                    "cpu_cores": 8,
                    "memory_gb": 16,
                    "disk_gb": 100
                }
            ]
        }
    }
}

# Create and start cluster
manager = HPCClusterManager(config, Path("cluster_state.json"))
manager.start_cluster()
"""

ADVANCED_PROGRAM = """
# Advanced cluster configuration with static IPs
config = {
    "clusters": {
        "hpc": {
            "name": "hpc-cluster",
            "base_image_path": "/path/to/base-image.qcow2",
            "network": {
                "subnet": "192.168.100.0/24",
                "bridge": "br-hpc-cluster",
                "gateway_ip": "192.168.100.1",
                "dhcp_start": "192.168.100.10",
                "dhcp_end": "192.168.100.254",
                "dns_servers": ["192.168.100.1", "8.8.8.8", "1.1.1.1"],
                "dns_mode": "isolated"
            },
            "controller": {
                "cpu_cores": 4,
                "memory_gb": 8,
                "disk_gb": 50,
                "ip_address": "192.168.100.2"
            },
            "compute_nodes": [
                {
                    "cpu_cores": 8,
                    "memory_gb": 16,
                    "disk_gb": 100,
                    "ip": "192.168.100.10"
                }
            ]
        }
    }
}
"""

MISSING_IMPORT = "from pathlib import Path\n"
IMPORT = "from ai_how.vm_management.hpc_manager import HPCClusterManager\n"
START = "\nmanager = HPCClusterManager(config, Path('cluster_state.json'))\nmanager.start_cluster()\n"

PROGRAMS = {
    "basic": MISSING_IMPORT + BASIC_PROGRAM,
    "advanced": MISSING_IMPORT + IMPORT + ADVANCED_PROGRAM + START,
}

ASK = """
import json
status = manager.status_cluster()
assert not manager.start_cluster().changed
stopped = manager.stop_cluster()
again = manager.stop_cluster()
gone = manager.destroy_cluster()
print(json.dumps({
    "at work": status.at_work,
    "leases": {node.name: str(node.lease.ip) for node in status.nodes},
    "stopped": [stopped.changed, again.changed],
    "exists": [stopped.status.exists, gone.status.exists],
    "destroyed again": manager.destroy_cluster().changed,
}))
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_documented_program_runs_as_it_stands(
    program: str, micro_image: Path, folder: Path, virsh: Callable[..., str], clean_host: None
) -> None:
    text = PROGRAMS[program].replace("/path/to/base-image.qcow2", str(micro_image))
    ran = subprocess.run(
        [sys.executable, "-c", text + ASK],
        capture_output=True,
        text=True,
        timeout=COMMAND_DEADLINE,
        check=False,
        env=os.environ,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    # One line: the library itself prints nothing.
    assert json.loads(ran.stdout) == {
        "at work": True,
        "leases": {"hpc-cluster-controller": "192.168.100.2", "hpc-cluster-compute-01": "192.168.100.10"},
        "stopped": [True, False],
        "exists": [True, False],
        "destroyed again": False,
    }
    assert list(folder.iterdir()) == []
