"""Twenty baked base servers: launched at once, idle, and a ten-step script on all of them beside ansible and pyinfra.

    python bench/twenty_servers.py [--servers 20] [--runs 5] [--without-peers]

The peers come from PyPI into a virtual environment of their own beside the benches' state, and reach the same servers
over SSH. Every tool does the same ten steps: write a file, read it back, compare.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rehearsal import STATE, Client, Figure, apply, controller, controller_pid, finished, report, servers, until

STEPS = 10
STEP = 'echo "step {n}" > /tmp/bench-{n} && test "$(cat /tmp/bench-{n})" = "step {n}"'
PEERS = STATE / "peers"
IDLE_SECONDS = 30


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--servers", type=int, default=20)
    words.add_argument("--runs", type=int, default=5)
    words.add_argument("--without-peers", action="store_true")
    asked = words.parse_args()
    with controller() as client:
        text = deployment(asked.servers)
        took = launched(client, text, asked.servers)
        figures = [Figure(name=f"{asked.servers} servers at once: all operational", unit="s", values=[took], limit=40)]
        figures += idle(client)
        figures += scripts(client, asked.servers, asked.runs, peers=not asked.without_peers)
        instances = {s["cloud_id"] for s in servers(client, "twenty")}
        finished(client, client.delete("/deployments/twenty?yes=true")["task"]["id"])
        left = [name for name in instances if name in subprocess.check_output(["ps", "axww"], text=True)]
        figures.append(Figure(name="instances left behind after destroy", unit="", values=[len(left)], limit=0))
    report(f"{asked.servers} servers", figures)


def deployment(count: int) -> str:
    names = "\n".join(f"  base{n}: {{template: base, zone: {'ab'[n % 2]}}}" for n in range(1, count + 1))
    return f"deployment: twenty\ncloud: local\nservers:\n{names}\n"


def launched(client: Client, text: str, count: int) -> float:
    """Seconds from apply to all operational, on a baked image: one server is launched and destroyed before."""
    finished(client, apply(client, deployment(1)))
    finished(client, client.delete("/deployments/twenty?yes=true")["task"]["id"])
    began = time.monotonic()
    task = apply(client, text)

    def all_up() -> bool:
        states = [s["state"] for s in servers(client, "twenty")]
        return len(states) == count and set(states) == {"operational"}

    until(all_up, "all servers to be operational", within_seconds=300, every_seconds=0.2)
    took = time.monotonic() - began
    finished(client, task)
    return took


def idle(client: Client) -> list[Figure]:
    """Memory and processor time of the controller with its children, and of one agent, over half a minute."""
    time.sleep(10)
    pids = {"controller": controller_pid()}
    pids |= {name_of(child): child for child in children_of(pids["controller"])}
    before = {name: processor_seconds(pid) for name, pid in pids.items()}
    time.sleep(IDLE_SECONDS)
    figures = []
    for name, pid in pids.items():
        percent = 100 * (processor_seconds(pid) - before[name]) / IDLE_SECONDS
        mine = name == "controller"
        figures.append(
            Figure(name=f"{name}: resident", unit="MB", values=[resident_mb(pid)], limit=150 if mine else None)
        )
        figures.append(
            Figure(name=f"{name}: processor", unit="% of a core", values=[percent], limit=3 if mine else None)
        )
    agents = [resident_mb(pid) for pid in every_pid() if "relaunch_agent" in command_of(pid) or is_agent(pid)]
    if agents:
        figures.append(Figure(name="agent: resident", unit="MB", values=agents, limit=35))
    return figures


def scripts(client: Client, count: int, runs: int, *, peers: bool) -> list[Figure]:
    names = [f"twenty/base{n}" for n in range(1, count + 1)]
    body = "\n".join(STEP.format(n=n) for n in range(STEPS))
    empty = {"name": "nothing", "text": "#!/bin/sh\ntrue\n"}
    ten = {"name": "ten steps", "text": f"#!/bin/sh\nset -e\n{body}\n"}

    def ours(script: dict[str, str]) -> float:
        began = time.monotonic()
        finished(client, client.post("/runs", {"servers": names, "script": script, "inputs": {}})["task"]["id"])
        return time.monotonic() - began

    ours(empty)
    overhead = [ours(empty) for _ in range(runs)]
    mine = [ours(ten) for _ in range(runs)]
    figures = [
        Figure(name=f"an empty script on {count} servers (overhead)", unit="s", values=overhead, limit=0.3),
        Figure(name=f"{count} shells started here and awaited", unit="s", values=[shells(count) for _ in range(runs)]),
        Figure(name=f"ten steps on {count} servers: relaunch", unit="s", values=mine),
    ]
    if peers:
        for peer, command in peer_commands(client).items():
            subprocess.run(command, check=True, capture_output=True, timeout=600, cwd=PEERS, env=peer_environment())
            seconds = []
            for _ in range(max(1, runs // 2)):
                began = time.monotonic()
                subprocess.run(command, check=True, capture_output=True, timeout=600, cwd=PEERS, env=peer_environment())
                seconds.append(time.monotonic() - began)
            ratio = statistics.median(seconds) / statistics.median(mine)
            figures.append(Figure(name=f"ten steps on {count} servers: {peer}", unit="s", values=seconds))
            figures.append(Figure(name=f"{peer} takes times as long", unit="x", values=[ratio]))
    return figures


def shells(count: int) -> float:
    """Seconds for as many empty scripts without anything around them: what no tool can do in less on this machine."""
    began = time.monotonic()
    for process in [subprocess.Popen(["/bin/sh", "-c", "true"]) for _ in range(count)]:
        process.wait()
    return time.monotonic() - began


def peer_environment() -> dict[str, str]:
    return {**os.environ, "ANSIBLE_HOST_KEY_CHECKING": "False", "PATH": f"{PEERS}/venv/bin:{os.environ['PATH']}"}


def peer_commands(client: Client) -> dict[str, list[str]]:
    """What runs the ten steps with each peer; installs them first."""
    PEERS.mkdir(parents=True, exist_ok=True)
    if not (PEERS / "venv/bin/pyinfra").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / "venv")], check=True)
        subprocess.run([f"{PEERS}/venv/bin/pip", "install", "-q", "ansible-core", "pyinfra"], check=True, timeout=600)
    key = STATE / "ssh" / "id_ed25519"
    addresses = [s["private_address"] for s in servers(client, "twenty")]
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ControlPersist=60s -o ControlMaster=auto"
    (PEERS / "hosts.ini").write_text(
        "\n".join(["[all]", *addresses, "[all:vars]", "ansible_user=root", f"ansible_ssh_private_key_file={key}"])
        + f"\nansible_ssh_common_args='{options}'\nansible_python_interpreter=/usr/bin/python3\n"
    )
    tasks = "\n".join(f"    - shell: '{STEP.format(n=n)}'" for n in range(STEPS))
    (PEERS / "ten.yml").write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{tasks}\n")
    (PEERS / "inventory.py").write_text(
        f"hosts = [(a, {{'ssh_user': 'root', 'ssh_key': {str(key)!r}, 'ssh_strict_host_key_checking': 'no'}})\n"
        f"         for a in {addresses!r}]\n"
    )
    operations = "\n".join(f"server.shell(commands=[{STEP.format(n=n)!r}])" for n in range(STEPS))
    (PEERS / "ten.py").write_text(f"from pyinfra.operations import server\n{operations}\n")
    forks = str(len(addresses))
    return {
        "ansible-core": [f"{PEERS}/venv/bin/ansible-playbook", "-i", "hosts.ini", "-f", forks, "ten.yml"],
        "pyinfra": [f"{PEERS}/venv/bin/pyinfra", "-y", "--parallel", forks, "inventory.py", "ten.py"],
    }


def every_pid() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def is_agent(pid: int) -> bool:
    words = command_of(pid).split()
    return "/opt/relaunch" in " ".join(words) and "agent" in " ".join(words) and "run-script" not in words


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return [child for child in found if name_of(child) in ("nats-server", "knotd")]


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
