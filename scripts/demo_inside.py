"""The demo inside the lab: the documented cluster up, proven from inside one of its machines, and gone again.

`python scripts/demo_inside.py FOLDER [--keep]` runs in any lab with the pretend internet; FOLDER holds micro.qcow2.
Exit code 1 if a proof fails.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_how.config.load import load_file
from ai_how.errors import AiHowError, CommandFailed, NotReady
from ai_how.host.process import output
from ai_how.lab import INTERNET
from ai_how.spec.cluster import Cluster
from ai_how.spec.resolve import resolve

EXAMPLE = Path(__file__).parent.parent / "examples" / "static-ip.yaml"
CONFIG = "demo.yaml"
DEADLINE = 30.0  # seconds, for the agent to answer and for a command in a guest to end


@dataclass(frozen=True, slots=True)
class Proof:
    """What is claimed, the command in the guest that shows it, and what its output must hold."""

    claim: str
    argv: tuple[str, ...]
    answer: str


def proofs(cluster: Cluster) -> Iterator[Proof]:
    """What must be so, seen from inside a machine of the cluster."""
    controller, neighbour = cluster.nodes[0], cluster.nodes[-1]
    name, gateway = f"{controller.name}.{cluster.network.domain}", cluster.network.gateway
    resolver = INTERNET.resolvers[0]
    ping = ("ping", "-c", "1", "-W", "9")
    yield Proof("names", ("nslookup", name), f"Address: {controller.ip}\n")
    yield Proof("names, reverse", ("nslookup", str(controller.ip)), f"name = {name}\n")
    yield Proof("neighbour", (*ping, neighbour.name), f"bytes from {neighbour.ip}:")
    yield Proof("gateway", (*ping, str(gateway)), f"bytes from {gateway}:")
    yield Proof("internet by address", (*ping, str(resolver)), f"bytes from {resolver}:")
    # The deadline is timeout's: busybox's own, `wget -T`, crashes in Debian's static build.
    wget = ("timeout", "9", "wget", "-q", "-O", "-", f"http://{INTERNET.name}/")
    yield Proof("internet by name", wget, INTERNET.web_body)


def main(folder: Path, *, keep: bool) -> int:
    """Show the whole, in `folder`; the exit code."""
    os.chdir(folder)
    Path(CONFIG).write_text(demo_config(folder / "micro.qcow2"))
    cluster = resolve(load_file(Path(CONFIG)))
    ai_how("up", CONFIG)
    ai_how("status")
    proven = show_proofs(cluster)
    if keep:
        offer_shell()
    else:
        ai_how("destroy", CONFIG, "--yes")
    print(f"\n{'Everything is as it should be.' if proven else 'NOT everything is as it should be: see FAILED above.'}")
    return 0 if proven else 1


def demo_config(image: Path) -> str:
    """The documented static addresses, on machines that fit everywhere."""
    text = EXAMPLE.read_text()
    for field, value in {"base_image_path": image, "cpu_cores": 1, "memory_gb": 0.125, "disk_gb": 1}.items():
        text = re.sub(rf"(?<={field}: ).*", str(value), text)
    return text


def ai_how(*words: str) -> None:
    """Show a command and run it. Ends the demo with the command's exit code if that is not 0."""
    print(f"\n$ ai-how {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "ai_how", *words], check=False).returncode
    if code != 0:
        sys.exit(code)


def show_proofs(cluster: Cluster) -> bool:
    """One line for each proof; whether all hold."""
    print("\nleases, as configured")
    status = json.loads(output([sys.executable, "-m", "ai_how", "status", CONFIG, "--json"]))
    has = {node["name"]: f"{node['mac']} {node['lease'] and node['lease']['ip']}" for node in status["nodes"]}
    held = []
    for node in cluster.nodes:
        want = f"{node.mac} {node.ip}"
        held.append(show(node.name, want, has[node.name], held=has[node.name] == want))
    asked = cluster.nodes[1].name
    print(f"\nfrom inside {asked}, by its guest agent", flush=True)
    await_agent(asked)
    for proof in proofs(cluster):
        code, said = run_in_guest(asked, proof.argv)
        line = next((line for line in f"{said}\n".splitlines(keepends=True) if proof.answer in line), "")
        holds = code == 0 and line != ""
        came = line if holds else f"exit code {code}: {said}"
        held.append(show(proof.claim, shlex.join(proof.argv), came, held=holds))
    return all(held)


def show(claim: str, asked: str, came: str, *, held: bool) -> bool:
    """A line: whether it holds, what was asked, what came back. Returns `held`."""
    print(f"  {'ok    ' if held else 'FAILED'}  {claim:22}  {asked}  →  {' '.join(came.split())}", flush=True)
    return held


def offer_shell() -> None:
    """A shell in the lab, as long as the user wants; then the lab ends, and the cluster with it."""
    print(
        "\nThis shell is inside the lab, with the cluster. Try: ai-how status, ai-how console compute-01 (leave with"
        "\nCtrl+]), virsh list, ai-how down demo.yaml. `exit` ends the shell and the lab.",
        flush=True,
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    subprocess.run([os.environ.get("SHELL", "/bin/sh")], env={**os.environ, "PATH": path}, check=False)


def await_agent(node: str) -> None:
    """Wait until the guest agent answers. Raises NotReady."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            agent(node, "guest-ping")
        except CommandFailed as error:
            if time.monotonic() > deadline:
                raise NotReady(f"the guest agent of {node} does not answer", why=error.why) from error
            time.sleep(0.1)  # libvirt has no event for an agent that has come up, only for its channel
        else:
            return


def run_in_guest(node: str, argv: tuple[str, ...]) -> tuple[int, str]:
    """Run a command in a guest, without a shell: its exit code (128 + N for signal N), and all that it said."""
    pid = agent(node, "guest-exec", {"path": argv[0], "arg": argv[1:], "capture-output": True})
    deadline = time.monotonic() + DEADLINE
    while not (status := agent(node, "guest-exec-status", pid))["exited"]:
        if time.monotonic() > deadline:
            raise NotReady(f"{shlex.join(argv)} does not end", why=f"it runs in {node} for {DEADLINE:.0f} s")
        time.sleep(0.02)  # the agent can only be asked
    said = "".join(base64.b64decode(status.get(part, "")).decode() for part in ("out-data", "err-data"))
    return status.get("exitcode", 128 + status.get("signal", 0)), said


def agent(node: str, command: str, arguments: Any = None) -> Any:
    """What the guest agent answers. Raises CommandFailed."""
    asked = {"execute": command} | ({"arguments": arguments} if arguments else {})
    return json.loads(output(["virsh", "-q", "qemu-agent-command", node, json.dumps(asked)]))["return"]


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), keep="--keep" in sys.argv[2:]))
    except AiHowError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
