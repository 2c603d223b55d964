"""What only real instances can show: traffic, disks, boots, kills, and that nothing is left behind."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC251  one test at a time has the loop; nothing waits for it meanwhile

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cloud_lab import LocalLab, until
from conftest import BRIDGE, NETWORK, RECIPES

from relaunch.clouds.cloud import IngressRule, Instance, InstanceState
from relaunch.clouds.local.cloud import LocalCloud
from relaunch.clouds.local.nspawn import interface
from relaunch.errors import Conflict, Failed

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

HOST = str(NETWORK.network_address + 1)
ANYWHERE = "0.0.0.0/0"
MEGABYTE = 1 << 20

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


# boots


async def test_user_data_runs_once_and_a_reboot_keeps_address_and_disk(local: LocalLab) -> None:
    instance = await local.launch_booted(
        "web1", user_data="#!/bin/sh\necho ran >> /root/ran\necho out of the user data\n"
    )
    until(lambda: local.inside(instance.id, "cat /root/ran; :") == "ran", "the user data ran")
    before = local.inside(instance.id, "cat /etc/machine-id /proc/sys/kernel/hostname")

    await local.cloud.reboot(instance.id)
    local.booted(instance.id)
    local.inside(instance.id, "systemctl start run-user-data")

    assert local.inside(instance.id, "cat /root/ran") == "ran"
    assert local.inside(instance.id, "cat /etc/machine-id /proc/sys/kernel/hostname") == before
    assert instance.private_address in local.inside(instance.id, "ip -4 -o address show host0")
    assert "out of the user data" in await local.cloud.console_output(instance.id)
    assert (await local.cloud.instance(instance.id)).state is InstanceState.RUNNING


async def test_a_guest_may_reboot_and_shut_itself_down(local: LocalLab) -> None:
    instance = await local.launch_booted()
    first = local.cloud.init_process(instance.id)

    assert local.inside(instance.id, "touch /root/kept; systemctl reboot 2>&1") == ""
    until(lambda: local.cloud.init_process(instance.id) not in (None, first), "another boot")
    local.booted(instance.id)
    local.inside(instance.id, f"test -e /root/kept && ping -c1 -W2 {HOST}")
    local.inside(instance.id, "systemctl poweroff --no-block")
    until(lambda: local.cloud.init_process(instance.id) is None, "shut down")
    await local.cloud.close()
    await local.cloud.open()

    assert (await local.cloud.instance(instance.id)).state is InstanceState.STOPPED
    await local.cloud.start(instance.id)
    local.booted(instance.id)


async def test_root_logs_in_with_the_key_given(local: LocalLab, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    instance = await local.launch_booted("web1", public_key=key.with_suffix(".pub").read_text())

    argv = ["ssh", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    argv += ["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", f"root@{instance.private_address}", "hostname"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=15, stdin=subprocess.DEVNULL)

    assert (done.stdout, done.returncode) == ("web1\n", 0), done.stderr


async def test_a_booted_guest_has_no_failed_unit_and_lets_everyone_log_in(local: LocalLab) -> None:
    instance = await local.launch_booted()

    assert local.inside(instance.id, "systemctl is-system-running; systemctl --failed --no-legend") == "running"
    assert local.inside(instance.id, "ls /run/nologin /etc/nologin 2>/dev/null; :") == ""


async def test_power_off_gives_no_time_to_shut_down_and_stop_does(local: LocalLab) -> None:
    instance = await local.launch_booted()
    unit = (
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=sh -c 'echo in order >> /root/ended'\n"
    )
    local.inside(instance.id, f"cat > /etc/systemd/system/note.service <<'END'\n{unit}END\nsystemctl start note")

    started = time.monotonic()
    await local.cloud.power_off(instance.id)
    took = time.monotonic() - started
    ended = local.folder / "instances" / instance.id / "upper/root/ended"

    assert took < 2
    assert not ended.exists()
    await local.cloud.start(instance.id)
    local.booted(instance.id)
    local.inside(instance.id, "systemctl start note")
    await local.cloud.stop(instance.id)
    assert ended.read_text() == "in order\n"


async def test_the_console_is_bounded(local: LocalLab) -> None:
    instance = await local.launch_booted()
    local.inside(instance.id, "head -c 3000000 /dev/zero | tr '\\0' x > /dev/console; echo the end > /dev/console")
    console = local.folder / "instances" / instance.id / "console.log"
    until(lambda: "the end" in console.read_text()[-100:], "all of it has come out")

    local.cloud._instances.keep_house()

    assert console.stat().st_size <= MEGABYTE
    assert "the end" in await local.cloud.console_output(instance.id, last_bytes=100)
    local.inside(instance.id, "echo after that > /dev/console")
    until(lambda: console.read_text().rstrip().endswith("after that"), "what comes later")


async def test_limits_of_memory_are_in_force(local: LocalLab) -> None:
    instance = await local.launch_booted(memory_bytes=200 * MEGABYTE)

    greedy = "python3 -c 'x = bytearray(400 << 20); print(len(x))'"
    assert (
        local.inside(instance.id, f"systemd-run --quiet --wait --pipe {greedy} || echo killed", check=False) == "killed"
    )


# traffic


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
        link.settimeout(10)
        assert link.recv(10) == b"two\n", "as after a pulled cable, the connection goes on"


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


# images and volumes


async def test_an_image_has_what_its_builder_wrote_and_nobody_s_identity(local: LocalLab) -> None:
    data = "#!/bin/sh\necho secret > /etc/relaunch/token\nhostname > /root/who\n"
    builder = await local.launch_booted("builder", user_data=data.replace("echo", "mkdir -p /etc/relaunch; echo"))
    until(lambda: local.inside(builder.id, "cat /root/who; :", check=False) == "builder", "the user data ran")
    local.inside(
        builder.id,
        "echo baked > /srv/baked; rm /usr/bin/less; rm -r /etc/ssh/sshd_config.d; mkdir /etc/ssh/sshd_config.d",
    )
    identity = local.inside(builder.id, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub")
    await local.cloud.stop(builder.id)

    image = await local.cloud.create_image(builder.id, name="baked-real", tags={})
    tree = local.folder / "images" / image.id / "tree"
    one, two = await asyncio.gather(
        local.launch_booted("one", image=image.id, user_data=data.replace("echo", "mkdir /etc/relaunch; echo")),
        local.launch_booted("two", image=image.id),
    )
    await local.cloud.start(builder.id)
    local.booted(builder.id)

    left = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [
        path for path in left if re.search(r"machine-id|ssh_host|cloud/|relaunch/|10-host0|var/log/|resolv", path)
    ]
    assert (
        local.inside(one.id, "cat /srv/baked; test -e /usr/bin/less || echo gone; ls /etc/ssh/sshd_config.d")
        == "baked\ngone"
    )
    until(lambda: local.inside(one.id, "cat /root/who; :") == "one", "its own user data ran")
    ids = [
        local.inside(each.id, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub") for each in (one, two, builder)
    ]
    assert len(set(ids)) == 3
    assert ids[2] == identity, "the builder itself stays who it was"


async def test_images_stand_on_images(local: LocalLab) -> None:
    image = local.image
    for number in range(4):
        builder = await local.launch_booted("builder", image=image)
        local.inside(builder.id, f"echo {number} >> /srv/layers")
        await local.cloud.stop(builder.id)
        image = (await local.cloud.create_image(builder.id, name=f"layer-{number}", tags={})).id
        await local.cloud.terminate(builder.id)

    top = await local.launch_booted(image=image)

    assert local.inside(top.id, "cat /srv/layers") == "0\n1\n2\n3"
    await local.cloud.terminate(top.id)
    for number in reversed(range(4)):
        found = [each for each in await local.cloud.images() if each.name == f"layer-{number}"]
        await local.cloud.delete_image(found[0].id)


async def test_a_volume_outlives_reboots_and_its_instance(local: LocalLab) -> None:
    volume = await local.cloud.create_volume(client_token="data", size_bytes=64 * MEGABYTE, zone="a")
    instance = await local.launch_booted()

    await local.cloud.attach_volume(volume.id, instance.id, "/srv/data")
    local.inside(instance.id, "echo kept > /srv/data/file && mountpoint -q /srv/data")
    await local.cloud.reboot(instance.id)
    local.booted(instance.id)
    assert local.inside(instance.id, "cat /srv/data/file") == "kept"
    snapshot = await local.cloud.snapshot_volume(volume.id, client_token="then")
    local.inside(instance.id, "echo later > /srv/data/file")
    await local.cloud.terminate(instance.id)

    assert (await local.cloud.volumes())[0].attached_to is None
    restored = await local.cloud.create_volume(
        client_token="again", size_bytes=64 * MEGABYTE, zone="a", from_snapshot=snapshot.id
    )
    other = await local.launch_booted()
    await local.cloud.attach_volume(volume.id, other.id, "/srv/data")
    await local.cloud.attach_volume(restored.id, other.id, "/srv/old")
    assert local.inside(other.id, "cat /srv/data/file /srv/old/file") == "later\nkept"
    local.inside(other.id, "systemd-run -q sleep 1000; cd /srv/old && systemd-run -q --same-dir sleep 1000")
    with pytest.raises(Conflict, match="in use"):
        await local.cloud.detach_volume(restored.id)
    await local.cloud.detach_volume(volume.id)
    assert local.inside(other.id, "ls /srv/data") == ""


async def test_an_instance_does_not_hold_another_cloud_s_volumes(local: LocalLab, tmp_path: Path) -> None:
    pool = tmp_path / "volumes/pool"
    pool.mkdir(parents=True)
    with (tmp_path / "disk").open("wb") as disk:
        disk.truncate(256 * MEGABYTE)
    subprocess.run(["mkfs.btrfs", "--quiet", str(disk.name)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk.name), str(pool)], check=True)
    try:
        instance = await local.launch_booted()
    finally:
        subprocess.run(["umount", str(pool)], check=True)

    def holders() -> str:
        return subprocess.run(["losetup", "-j", str(disk.name)], capture_output=True, text=True, check=True).stdout

    until(lambda: holders() == "", "the loop device is free", seconds=3)
    assert local.cloud.init_process(instance.id) is not None


async def test_a_volume_s_path_cannot_lead_out_of_the_instance(local: LocalLab, tmp_path: Path) -> None:
    volume = await local.cloud.create_volume(client_token="data", size_bytes=64 * MEGABYTE, zone="a")
    instance = await local.launch_booted()
    local.inside(instance.id, f"mkdir -p {tmp_path} && ln -s {tmp_path} /srv/out")

    await local.cloud.attach_volume(volume.id, instance.id, "/srv/out/data")

    assert list(tmp_path.iterdir()) == []
    assert local.inside(instance.id, f"mountpoint {tmp_path}/data") == f"{tmp_path}/data is a mountpoint"


# failures


LAUNCH_MANY = """
import asyncio, sys
from ipaddress import IPv4Network
from pathlib import Path
from relaunch.clouds.cloud import LaunchRequest
from relaunch.clouds.local.cloud import LocalCloud

async def main():
    folder, network, bridge, image, prefix = sys.argv[1:]
    cloud = LocalCloud(Path(folder), network=IPv4Network(network), bridge=bridge, recipes=Path("/nowhere"))
    await cloud.open()
    print("open", flush=True)
    user_data = "#!/bin/sh\\necho ran >> /root/ran\\n"
    await asyncio.gather(*(
        cloud.launch(LaunchRequest(
            client_token=f"{prefix}{n}", name=f"k{n}", image=image, zone="a", user_data=user_data
        ))
        for n in range(4)
    ))
    print("launched", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(5))
async def test_launches_killed_half_way_are_finished_and_nothing_is_launched_twice(local: LocalLab, seed: int) -> None:
    delay = random.Random(seed).uniform(0, 0.15)
    prefix = f"kill-{seed}-{time.time_ns()}-"
    await local.cloud.close()
    argv = [sys.executable, "-c", LAUNCH_MANY, str(local.folder), str(NETWORK), BRIDGE, local.image, prefix]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "open\n"
        time.sleep(delay)
        controller.send_signal(signal.SIGKILL)
    await local.cloud.open()

    recorded = await local.cloud.instances()
    again = await asyncio.gather(
        *(
            local.launch(f"k{n}", client_token=f"{prefix}{n}", user_data="#!/bin/sh\necho ran >> /root/ran\n")
            for n in range(4)
        )
    )

    present = [each for each in await local.cloud.instances() if each.client_token.startswith(prefix)]
    assert {each.id for each in present} == {each.id for each in again}, f"seed {seed}, {len(recorded)} were recorded"
    assert len({each.private_address for each in present}) == 4
    for instance in present:
        assert instance.state is InstanceState.RUNNING
        local.booted(instance.id)
        until(lambda id=instance.id: local.inside(id, "cat /root/ran; :") == "ran", "the user data ran once")
    assert sorted(cable.name for cable in Path("/sys/class/net", BRIDGE, "brif").iterdir()) == sorted(
        interface(each.id) for each in present
    )


async def test_what_a_reboot_of_the_host_or_a_killed_runner_leaves_is_healed(local: LocalLab) -> None:
    instance, stopped = await local.launch_booted(), await local.launch_booted()
    local.inside(instance.id, "echo kept > /root/file; sync")
    await local.cloud.stop(stopped.id)
    await local.cloud.close()
    runner = int((local.folder / "instances" / instance.id / "running").read_text())
    init = local.cloud.init_process(instance.id)
    os.kill(runner, signal.SIGKILL)
    subprocess.run(["ip", "link", "delete", BRIDGE], check=True)
    (local.folder / "instances" / "i-00000000ff").mkdir()

    await local.cloud.open()
    local.booted(instance.id)

    assert local.cloud.init_process(instance.id) != init
    assert (
        local.inside(instance.id, f"cat /root/file; ping -c1 -W2 {HOST} > /dev/null && echo reached") == "kept\nreached"
    )
    assert (await local.cloud.instance(stopped.id)).state is InstanceState.STOPPED
    assert not (local.folder / "instances" / "i-00000000ff").exists()


async def test_instances_live_on_while_the_controller_is_away(local: LocalLab) -> None:
    instance = await local.launch_booted()
    init = local.cloud.init_process(instance.id)

    await local.cloud.close()
    local.inside(instance.id, f"ping -c1 -W2 {HOST}")
    await local.cloud.open()

    assert local.cloud.init_process(instance.id) == init


async def test_a_second_controller_is_refused(local: LocalLab) -> None:
    second = LocalCloud(local.folder, network=NETWORK, bridge=BRIDGE, recipes=RECIPES)

    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        await second.open()


async def test_a_taken_range_or_bridge_is_refused_by_name(local: LocalLab, tmp_path: Path) -> None:
    inside = LocalCloud(tmp_path / "one", network=IPv4Network("198.19.0.0/20"), bridge="rlA1", recipes=RECIPES)
    same = LocalCloud(tmp_path / "two", network=IPv4Network("198.19.13.0/24"), bridge=BRIDGE, recipes=RECIPES)

    with pytest.raises(Conflict, match=rf"198\.19\.0\.0/24 dev {BRIDGE}"):
        await inside.open()
    with pytest.raises(Conflict, match=str(local.folder)):
        await same.open()

    assert not Path("/sys/class/net/rlA1").exists()


async def test_a_recipe_that_fails_says_why_and_leaves_nothing(local: LocalLab, tmp_path: Path) -> None:
    recipe = tmp_path / "broken"
    recipe.mkdir()
    script = (
        "#!/bin/sh\nmkdir -p $1/proc && mount -t tmpfs none $1/proc\necho first\necho the disk is sour >&2\nexit 3\n"
    )
    (recipe / "build").write_text(script)
    (recipe / "build").chmod(0o755)
    cloud = LocalCloud(tmp_path / "cloud", network=IPv4Network("198.19.13.0/24"), bridge="rlA1", recipes=tmp_path)
    await cloud.open()
    try:
        seen: list[str] = []
        with pytest.raises(Failed, match="exit status 3") as failure:
            await cloud.base_image("broken", seen.append)

        assert "the disk is sour" in failure.value.hint
        assert seen == ["first", "the disk is sour"]
        assert list((tmp_path / "cloud/images").iterdir()) == []
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    finally:
        await cloud.down(purge=True)


async def test_no_space_is_said_and_nothing_half_made_remains(local: LocalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaunch.clouds.local.files.free_bytes", lambda folder: 10 * MEGABYTE)
    before = sorted((local.folder / "instances").iterdir())

    with pytest.raises(Conflict, match="no space left"):
        await local.launch()
    with pytest.raises(Conflict, match="no space left"):
        await local.cloud.create_volume(client_token="v", size_bytes=64 * MEGABYTE, zone="a")

    assert sorted((local.folder / "instances").iterdir()) == before


def left_on_the_host(folder: Path) -> list[str]:
    """What of this cloud is still on the host: processes, mounts, links, tables, loop devices, control groups."""
    found = [f"process {pid.name}" for pid in Path("/proc").iterdir() if pid.name.isdigit() and _is_of(pid, folder)]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    found += [link.name for link in Path("/sys/class/net").iterdir() if link.name == BRIDGE]
    for command in ("nft list tables", "losetup --list --output BACK-FILE"):
        output = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
        found += [line for line in output.splitlines() if f"relaunch_{BRIDGE}" in line or str(folder) in line]
    found += [str(group) for group in Path("/sys/fs/cgroup").glob(f"**/relaunch/{BRIDGE}")]
    return found + [str(each) for each in Path("/run/relaunch").glob(f"uplinks/*/for-{BRIDGE}")]


def _is_of(pid: Path, folder: Path) -> bool:
    try:
        return str(folder).encode() in (pid / "cmdline").read_bytes() and pid.name != str(os.getpid())
    except OSError:
        return False


async def test_down_leaves_nothing_and_the_next_open_starts_what_ran(local: LocalLab) -> None:
    volume = await local.cloud.create_volume(client_token="data", size_bytes=64 * MEGABYTE, zone="a")
    instance = await local.launch_booted()
    await local.cloud.attach_volume(volume.id, instance.id, "/srv/data")
    local.inside(instance.id, "echo kept > /srv/data/file")
    assert left_on_the_host(local.folder), "the check finds what is there"

    await local.cloud.down()
    left = left_on_the_host(local.folder)
    await local.cloud.down()
    await local.cloud.open()
    local.booted(instance.id)

    assert left == []
    assert local.inside(instance.id, "cat /srv/data/file") == "kept"


async def test_twenty_at_once(local: LocalLab, record_property: object) -> None:
    started = time.time()
    user_data = "#!/bin/sh\ndate +%s.%N > /root/ran.new\nmv /root/ran.new /root/ran\n"

    instances = await asyncio.gather(*(local.launch(f"n{n}", user_data=user_data) for n in range(20)))
    ran = [local.folder / "instances" / each.id / "upper/root/ran" for each in instances]
    until(lambda: all(file.exists() for file in ran), "user data on all twenty", seconds=60)
    took = max(float(file.read_text()) for file in ran) - started

    print(f"\ntwenty at once: all at their user data after {took:.1f} s")
    assert took < 40, "on two idle cores it is 10"
    assert len({each.private_address for each in instances}) == 20
