"""A silent server fails at once while it is unreachable, and is reachable again afterwards: in a network of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"
PROGRAM = """
import socket, sys, time
sys.path.insert(0, sys.argv[1])
from relaunch_agent.database.unreachable import forget_all, unreachable

def outcome():
    began = time.monotonic()
    try:
        socket.create_connection(("192.0.2.7", 3306), timeout=0.4).close()
    except OSError as error:
        return type(error).__name__, time.monotonic() - began < 0.2

print(outcome())
with unreachable("192.0.2.7"):
    print(outcome())
print(outcome())
inside = unreachable("192.0.2.7")
inside.__enter__()
forget_all()
print(outcome())
with unreachable(""):
    pass
"""


@pytest.mark.skipif(not shutil.which("unshare") or not shutil.which("ip"), reason="needs unshare and ip")
def test_connections_fail_at_once_for_as_long_as_it_lasts():
    lines = (
        "ip link add quiet type veth peer name other && ip link set other up && ip link set quiet up"
        " && ip addr add 192.0.2.1/24 dev quiet && ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev quiet"
        ' && exec "$@"'
    )
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", lines, "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run([*command, str(SOURCE)], capture_output=True, text=True, timeout=30)
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no network of one's own here: {done.stderr.strip()}")
    silent, at_once = "('TimeoutError', False)", "('OSError', True)"
    assert done.stdout.splitlines() == [silent, at_once, silent, silent], done.stderr
