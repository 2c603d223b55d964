import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

from relaunch.clouds.local import host

MOUNTS = """\
/dev/vda / ext4 rw 0 0
overlay /var/lib/docker overlay rw 0 0
server:/x /srv nfs4 rw 0 0
"""


def test_the_file_system_is_that_of_the_longest_mount_point_above() -> None:
    assert host.filesystem_of(Path("/var/lib/relaunch"), MOUNTS) == "ext4"
    assert host.filesystem_of(Path("/var/lib/docker/x"), MOUNTS) == "overlay"
    assert host.filesystem_of(Path("/srv"), MOUNTS) == "nfs4"
    assert host.filesystem_of(Path("/srv2"), MOUNTS) == "ext4"


def test_too_little_memory_is_said_with_the_number() -> None:
    assert host.memory_problems("MemTotal: 9 kB\nMemAvailable: 4000000 kB\n") == []
    (problem,) = host.memory_problems("MemAvailable: 2097152 kB\n")
    assert problem.fatal and "2048 MB" in problem.what


def test_a_folder_where_no_layers_can_be_is_refused(tmp_path: Path) -> None:
    problems = host.disk_problems(tmp_path / "not/yet", f"none {tmp_path} overlay rw 0 0\n")

    assert [problem for problem in problems if "on overlay" in problem.what]


def test_a_colliding_route_is_named() -> None:
    network = IPv4Network("198.18.0.0/16")

    assert host.route_problems(network, "relaunch0", [{"dst": "198.18.0.0/16", "dev": "relaunch0"}]) == []
    (problem,) = host.route_problems(network, "relaunch0", [{"dst": "198.18.9.0/24", "dev": "tun0"}])
    assert "198.18.9.0/24 dev tun0" in problem.what


def test_only_a_name_server_on_every_address_is_in_the_way() -> None:
    line = "  1: {}:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 1 2 0 0\n"

    assert host.listens_everywhere(53, line.format("00000000"))
    assert host.listens_everywhere(53, line.format("0" * 32))
    assert not host.listens_everywhere(53, line.format("3500007F"))


def test_a_firewall_that_drops_comes_with_the_command_that_lets_through() -> None:
    docker = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n"
    ufw = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n"

    (problem,) = host.firewall_problems("relaunch0", (7443,), docker)
    assert problem.do.startswith("iptables -I DOCKER-USER -i relaunch0 -j ACCEPT")
    assert host.firewall_problems("relaunch0", (7443,), docker + "-A DOCKER-USER -i relaunch0 -j ACCEPT\n") == []
    assert "ufw allow in on relaunch0" in host.firewall_problems("relaunch0", (7443,), ufw)[1].do
    assert host.firewall_problems("relaunch0", (7443,), "") == []


def test_it_runs_without_any_module_of_ours_or_of_others() -> None:
    argv = [sys.executable, "-I", "-S", host.__file__, "--help"]

    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
