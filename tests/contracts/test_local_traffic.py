"""What only real instances can show of traffic: who reaches whom, and when that ends."""

# ruff: noqa: ASYNC221  one test at a time has the loop; nothing waits for it meanwhile

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_lab import LocalLab, until
from conftest import NETWORK

from relaunch.clouds.cloud import IngressRule, Instance
from relaunch.clouds.local import firewall

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

HOST = str(NETWORK.network_address + 1)
ANYWHERE = "0.0.0.0/0"

# Answers each line with itself, so that a connection can be seen to live.
ECHO = textwrap.dedent("""\
    import socketserver
    class Echo(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer(("", 8000), Echo).serve_forever()
""")


def tcp(port: int, source: str = ANYWHERE) -> IngressRule:
    return IngressRule(protocol="tcp", from_port=port, to_port=port, source=source)


def serve(lab: LocalLab, instance: Instance) -> None:
    """An echo server on port 8000 of the instance."""
    lab.inside(instance.id, f"cat > /root/echo.py <<'END'\n{ECHO}END\nsystemd-run --quiet python3 /root/echo.py")
    until(lambda: "8000" in lab.inside(instance.id, "ss -Htln"), "the echo server listens")


def reaches(lab: LocalLab, client: Instance, server: Instance, port: int = 8000) -> bool:
    """Does a connection from one instance to another open within a second."""
    script = f"import socket; socket.create_connection(('{server.private_address}', {port}), 1)"
    return lab.inside(client.id, f'python3 -c "{script}" 2>&1 || echo refused') == ""


async def test_security_groups_decide_who_reaches_whom(local: LocalLab) -> None:
    await local.cloud.set_security_group("web", [])
    await local.cloud.set_security_group("app", [tcp(8000, "group:web")])
    web, app, other = await asyncio.gather(
        local.launch_booted("web", security_groups=("web",)),
        local.launch_booted("app", security_groups=("app",)),
        local.launch_booted("other"),
    )
    for instance in (web, app):
        serve(local, instance)

    assert reaches(local, web, app)
    assert not reaches(local, other, app), "not of the group that may"
    assert not reaches(local, app, web), "the reverse is not allowed"
    assert not reaches(local, web, app, port=22), "another port"
    with socket.create_connection((app.private_address, 8000), 2):
        pass  # the host itself always may

    await local.cloud.set_security_group("app", [tcp(8000, f"{other.private_address}/32")])
    assert not reaches(local, web, app)
    assert reaches(local, other, app)
    await local.cloud.set_instance_groups(app.id, [])
    assert not reaches(local, other, app)
    ping = f"ping -c1 -W1 {app.private_address} >/dev/null && echo yes || echo no"
    assert local.inside(other.id, ping) == "no"
    await local.cloud.set_security_group(
        "app", [IngressRule(protocol="icmp", from_port=0, to_port=0, source=str(NETWORK))]
    )
    await local.cloud.set_instance_groups(app.id, ["app"])
    assert local.inside(other.id, ping) == "yes"


async def test_a_connection_that_no_rule_allows_any_more_ends(local: LocalLab) -> None:
    await local.cloud.set_security_group("app", [tcp(8000)])
    app, client = await asyncio.gather(
        local.launch_booted("app", security_groups=("app",)), local.launch_booted("client")
    )
    serve(local, app)
    script = textwrap.dedent(f"""\
        import socket, time
        link = socket.create_connection(("{app.private_address}", 8000), 2)
        link.settimeout(2)
        try:
            while True:
                link.sendall(b"x\\n"); print(link.recv(10), flush=True); time.sleep(0.05)
        except OSError as error:
            print("ended", type(error).__name__, flush=True)
    """)
    local.inside(
        client.id, f"cat > /root/c.py <<'END'\n{script}END\nsystemd-run -q sh -c 'python3 /root/c.py > /root/out'"
    )
    until(lambda: local.inside(client.id, "wc -l < /root/out; :") not in ("", "0", "1"), "the connection lives")

    await local.cloud.set_security_group("app", [tcp(9999)])

    until(lambda: "ended" in local.inside(client.id, "cat /root/out"), "the connection ends", seconds=4)


async def test_cut_off_drops_everything_silently_and_comes_back(local: LocalLab) -> None:
    await local.cloud.set_security_group("app", [tcp(8000)])
    app, client = await asyncio.gather(
        local.launch_booted("app", security_groups=("app",)), local.launch_booted("client")
    )
    serve(local, app)
    with socket.create_connection((app.private_address, 8000), 2) as link:
        link.settimeout(1)
        link.sendall(b"one\n")
        assert link.recv(10) == b"one\n"

        await local.cloud.cut_off(app.id, True)
        link.sendall(b"two\n")
        with pytest.raises(TimeoutError):
            link.recv(10)
        assert not reaches(local, client, app)
        assert local.inside(app.id, f"ping -c1 -W1 {HOST} >/dev/null && echo yes || echo no") == "no"
        await local.cloud.reboot(client.id)  # the rules hold whoever else comes and goes
        with pytest.raises(TimeoutError):
            link.recv(10)

        await local.cloud.cut_off(app.id, False)
        link.settimeout(60)  # when, TCP decides: it tries again ever more seldom
        assert link.recv(10) == b"two\n", "as after a pulled cable, the connection goes on"


async def test_a_cut_off_instance_is_silent_again_after_all_rules_were_flushed(local: LocalLab) -> None:
    app = await local.launch_booted("app")
    ping = f"ping -c1 -W1 {HOST} >/dev/null && echo yes || echo no"
    await local.cloud.cut_off(app.id, True)
    assert local.inside(app.id, ping) == "no"

    await firewall.take_down(local.cloud._bridge)
    assert local.inside(app.id, ping) == "yes", "nothing is left that keeps it silent"
    await local.cloud._keep_wall()

    assert local.inside(app.id, ping) == "no"


@pytest.fixture
def outside() -> Iterator[str]:
    """An address beyond the host, with a server that answers with its client's address on port 8080."""
    name, address = "rlAout", "198.19.14.2"
    listen = (
        "import socketserver\n"
        "class Who(socketserver.BaseRequestHandler):\n"
        "    def handle(self): self.request.sendall(self.client_address[0].encode())\n"
        "socketserver.TCPServer(('', 8080), Who).serve_forever()"
    )
    for command in (
        f"ip netns add {name}",
        f"ip link add {name} type veth peer name host1 netns {name}",
        f"ip address add 198.19.14.1/24 dev {name}",
        f"ip link set {name} up",
        f"ip -n {name} address add {address}/24 dev host1",
        f"ip -n {name} link set host1 up",
    ):
        subprocess.run(command.split(), check=True)
    Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1")
    server = subprocess.Popen(["ip", "netns", "exec", name, sys.executable, "-c", listen])
    try:
        yield address
    finally:
        server.kill()
        server.wait()
        subprocess.run(["ip", "netns", "delete", name], check=True)


async def test_instances_reach_the_outside_as_the_host_and_are_not_reached_from_there(
    local: LocalLab, outside: str
) -> None:
    instance = await local.launch_booted()
    serve(local, instance)
    ask = f"import socket; print(socket.create_connection(('{outside}', 8080), 2).recv(99).decode())"
    until(lambda: local.inside(instance.id, f'python3 -c "{ask}"; :', check=False) != "", "the server is up")
    route = ["ip", "-n", "rlAout", "route", "add", str(NETWORK), "via", "198.19.14.1"]
    subprocess.run(route, check=True)
    call = f"import socket; socket.create_connection(('{instance.private_address}', 8000), 1)"

    def is_reached() -> bool:
        argv = ["ip", "netns", "exec", "rlAout", sys.executable, "-c", call]
        return subprocess.run(argv, capture_output=True, timeout=10).returncode == 0

    assert local.inside(instance.id, f'python3 -c "{ask}"') == "198.19.14.1"
    assert not is_reached()
    await local.cloud.set_security_group("open", [tcp(8000, "198.19.14.0/24")])
    await local.cloud.set_instance_groups(instance.id, ["open"])
    assert is_reached()


async def test_an_address_can_be_taken_over_with_a_gratuitous_arp(local: LocalLab) -> None:
    await local.cloud.set_security_group("app", [tcp(8000)])
    first, second, client = await asyncio.gather(
        local.launch_booted(security_groups=("app",)), local.launch_booted(), local.launch_booted()
    )
    for instance in (first, second):
        serve(local, instance)
    assert reaches(local, client, first)
    await local.cloud.power_off(first.id)
    assert not reaches(local, client, first)

    address = first.private_address
    announce = textwrap.dedent(f"""\
        import socket
        mac = bytes.fromhex(open("/sys/class/net/host0/address").read().strip().replace(":", ""))
        me = socket.inet_aton("{address}")
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        link.bind(("host0", 0x0806))
        packet = bytes.fromhex("0001080006040001") + mac + me + b"\\xff" * 6 + me
        link.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + packet)
    """)
    local.inside(second.id, f"ip address add {address}/32 dev host0 && python3 - <<'END'\n{announce}END")

    until(lambda: reaches(local, client, first), "the other answers at the address", seconds=5)
