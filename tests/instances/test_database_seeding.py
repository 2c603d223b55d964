"""Seeding of new replicas on real servers: from the primary, from a replica, broken off, refused, past hanging commits.

A controller of its own, servers of the template mysql, their own scripts. RELAUNCH_SEEDING_TEST_STATE names another
folder than /var/tmp/relaunch-test-seeding (images stay there between runs when RELAUNCH_SEEDING_TEST_KEEP is set).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relaunch.cli.servers import ssh_command

PROJECT = Path(__file__).parents[2]
STATE = Path(os.environ.get("RELAUNCH_SEEDING_TEST_STATE", "/var/tmp/relaunch-test-seeding"))
SETTINGS = 'network = "198.19.10.0/24"\nbridge = "rlt-seed"\napi_port = 17710\nbus_port = 17712\n'
ENVIRONMENT = {**os.environ, "RELAUNCH_STATE": str(STATE), "PYTHONPATH": str(PROJECT / "src")}
GROUP = """deployment: sown
servers:
  db1: {{template: mysql, zone: a, memory: 1G}}
  db2: {{template: mysql, zone: b, memory: 1G}}
  db3: {{template: mysql, zone: b, memory: 1G}}
database: {{primary: db1, replicas: [{replicas}], durability: {durability}, backups: {{full: never, incremental: never,
  primary: never, prove: never, schemas: never}}}}
credentials: {{DB_PASSWORD: generate, REPLICATION_PASSWORD: generate}}
"""
SCRIPTS = PROJECT / "templates/scripts/attachments"
TAKE = "python3 /root/s/take_seed.py"
pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(1200)]


def relaunch(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "relaunch.cli.main", *words],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


def until(is_so: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


@dataclass(frozen=True)
class Server:
    name: str

    @property
    def address(self) -> str:
        return str(json.loads(relaunch("server", "show", f"sown/{self.name}", "--json"))["private_address"])

    def start(self, command: str, text: str = "") -> subprocess.Popen[str]:
        begun = subprocess.Popen(
            ssh_command(self.address, STATE / "ssh/id_ed25519", [command]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert begun.stdin
        begun.stdin.write(text)
        begun.stdin.close()
        begun.stdin = None
        return begun

    def run(self, command: str, *, status: int = 0, text: str = "") -> str:
        begun = self.start(command, text)
        said, _ = begun.communicate(timeout=400)
        assert begun.returncode == status, f"{begun.returncode}: {said}"
        return said

    def sql(self, statements: str) -> str:
        return self.run("mariadb -N -B", text=statements).strip()

    def log(self) -> str:
        return relaunch("server", "log", f"sown/{self.name}")


DB1, DB2, DB3 = Server("db1"), Server("db2"), Server("db3")
ROWS = "SELECT COUNT(*), COALESCE(MAX(id), 0), COALESCE(SUM(CRC32(a)), 0) FROM shop.story"


def database() -> dict[str, object]:
    return dict(json.loads(relaunch("db", "status", "sown", "--json")))


def in_step(*names: str) -> None:
    until(lambda: database()["mode"] == "sync" and set(names) <= set(map(str, database()["sync_set"])),  # type: ignore[call-overload]
          f"{names} in step")  # fmt: skip


def same_rows(one: Server, other: Server) -> None:
    until(lambda: other.sql(ROWS) == one.sql(ROWS), "the same rows", 60)


@pytest.fixture(scope="module")
def stand() -> Iterator[None]:
    STATE.mkdir(parents=True, exist_ok=True)
    (STATE / "controller.toml").write_text(SETTINGS)
    relaunch("controller", "start")
    try:
        apply("db2")
        yield
    finally:
        relaunch("deployment", "destroy", "sown", "--yes", check=False)
        relaunch("demo", "--stop", *([] if os.environ.get("RELAUNCH_SEEDING_TEST_KEEP") else ["--purge"]))


def apply(replicas: str, durability: str = "available") -> None:
    text = GROUP.format(replicas=replicas, durability=durability)
    if "db3" not in replicas:
        text = "".join(line for line in text.splitlines(keepends=True) if "db3:" not in line)
    file = STATE / "deployment.yml"
    file.write_text(text)
    relaunch("apply", str(file), "--yes")


def test_a_young_group_is_followed_from_its_start(stand: None) -> None:
    in_step("db2")

    assert "followed from its start" in DB2.log()


def test_a_seed_from_the_primary_while_writes_go_on_has_every_row(stand: None) -> None:
    grow()
    writer = DB1.start("for i in $(seq 4000); do mariadb -e 'INSERT INTO shop.story (a) VALUES (UUID())'; done")
    try:
        relaunch("server", "relaunch", "sown/db2", "--yes")
    finally:
        writer.kill()
        DB1.run("pkill -f 'seq 400[0]' || true")
    in_step("db2")

    said = DB2.log()
    assert "db1 is the primary" in said and "MB copied from db1" in said
    assert "Prepared and in place" in said
    same_rows(DB1, DB2)
    assert int(DB2.sql("SELECT COUNT(*) FROM shop.story")) > 100010  # some came while it was copied


def grow() -> None:
    """More history than is followed from the start."""
    DB1.sql("CREATE DATABASE shop; CREATE TABLE shop.story (id INT PRIMARY KEY AUTO_INCREMENT, a VARCHAR(1200))")
    for _ in range(2):
        DB1.sql("INSERT INTO shop.story (a) SELECT REPEAT(MD5(seq), 30) FROM shop.seq_1_to_50000")
    for server in (DB1, DB2):
        put_scripts(server)


def put_scripts(server: Server) -> None:
    server.run("mkdir -p s && cat >s/take_seed.py", text=(SCRIPTS / "take_seed.py").read_text())


def test_one_that_is_not_a_member_gets_nothing(stand: None) -> None:
    """The view's word decides: a certificate of the same authority is not enough."""
    put_scripts(DB2)
    local = DB1.run("command -v relaunch-local").strip()
    DB1.run("cat >/root/fake", text="#!/bin/sh\necho '{\"members\": []}'\n")
    DB1.run(f"mv {local} /root/kept; install -m 755 /root/fake {local}")
    try:
        said = DB2.run(f"{TAKE} /var/lib/trial /root/r.json db1={DB1.address}", status=4)
    finally:
        DB1.run(f"rm {local}; mv /root/kept {local}")

    assert "is not a member of this server's database group" in said


def test_without_a_certificate_nobody_gets_anything(stand: None) -> None:
    said = DB2.run("echo seed | timeout 10 openssl s_client -connect " + DB1.address + ":4444 -quiet"
                   " -CAfile /etc/relaunch/tls/ca.crt 2>&1 || true")  # fmt: skip

    assert "certificate required" in said
    assert "acknowledgers" not in said


def test_too_little_disk_is_refused_before_anything_is_copied(stand: None) -> None:
    DB2.run("mkdir -p /mnt/small && mount -t tmpfs -o size=100M none /mnt/small")
    try:
        said = DB2.run(f"{TAKE} /mnt/small/trial /root/r.json db1={DB1.address}", status=2)
        left = DB2.run("ls -A /mnt/small").strip()
    finally:
        DB2.run("umount /mnt/small")

    assert "NOT ENOUGH DISK: " in said and "104 MB are free. Nothing was copied." in said
    assert left == ""


def test_another_version_is_refused(stand: None) -> None:
    fake = "#!/bin/sh\necho mariadbd Ver 10.11.6-MariaDB\n"
    DB2.run("mkdir -p /root/fake-bin; cat >/root/fake-bin/mariadbd; chmod 755 /root/fake-bin/mariadbd", text=fake)

    said = DB2.run(f"PATH=/root/fake-bin:$PATH {TAKE} /var/lib/trial /root/r.json db1={DB1.address}", status=4)

    assert "its files cannot be used here" in said


def test_broken_off_half_way_it_is_run_again_and_whole(stand: None) -> None:
    """Both ends are killed in the middle; the giver is free for the next at once, the taker begins anew."""
    DB1.run("sed -i 's/^Environment=SEED_BANDWIDTH=.*/Environment=SEED_BANDWIDTH=20000000/'"
            " /etc/systemd/system/relaunch-give-seed@.service && systemctl daemon-reload")  # fmt: skip
    begun = DB2.start(f"{TAKE} /var/lib/trial /root/r.json db1={DB1.address}")
    until(lambda: "ibdata1" in DB2.run("ls /var/lib/trial 2>/dev/null || true"), "some of it to be there")
    DB2.run("pkill -KILL -f take_see[d]; pkill -KILL mbstream || true")
    begun.communicate(timeout=60)
    DB1.run("sed -i 's/^Environment=SEED_BANDWIDTH=.*/Environment=SEED_BANDWIDTH=/'"
            " /etc/systemd/system/relaunch-give-seed@.service && systemctl daemon-reload")  # fmt: skip
    until(lambda: not DB1.run("pgrep -x mariadb-backup || true").strip(), "the backup to be stopped", 20)

    said = DB2.run(f"{TAKE} /var/lib/trial /root/r.json db1={DB1.address} && mariadb-backup --prepare"
                   " --target-dir=/var/lib/trial 2>&1 | tail -n 1; rm -rf /var/lib/trial")  # fmt: skip

    assert "completed OK!" in said and "MB copied from db1" in said


def test_a_giver_that_dies_half_way_leaves_no_half_seed(stand: None) -> None:
    DB1.run("sed -i 's/^Environment=SEED_BANDWIDTH=.*/Environment=SEED_BANDWIDTH=20000000/'"
            " /etc/systemd/system/relaunch-give-seed@.service && systemctl daemon-reload")  # fmt: skip
    begun = DB2.start(f"{TAKE} /var/lib/trial /root/r.json db1={DB1.address}")
    until(lambda: "ibdata1" in DB2.run("ls /var/lib/trial 2>/dev/null || true"), "some of it to be there")
    DB1.run("pkill -KILL -x mariadb-backup")
    DB1.run("sed -i 's/^Environment=SEED_BANDWIDTH=.*/Environment=SEED_BANDWIDTH=/'"
            " /etc/systemd/system/relaunch-give-seed@.service && systemctl daemon-reload")  # fmt: skip
    said, _ = begun.communicate(timeout=200)

    assert "db1: mariadb-backup failed" in said
    assert begun.returncode == 0 and said.count("Copying the data of db1") == 2  # and then it was given whole
    DB2.run("rm -rf /var/lib/trial")


def test_a_replica_that_can_be_spared_gives_and_the_only_one_does_not(stand: None) -> None:
    apply("db2, db3")
    in_step("db2", "db3")
    third = DB3.log()
    relaunch("server", "relaunch", "sown/db3", "--yes")
    in_step("db2", "db3")
    put_scripts(DB3)
    spared = DB3.run(f"{TAKE} /var/lib/trial /root/r.json db1={DB1.address} db2={DB2.address}; cat /root/r.json")

    assert "db2 is the only one that acknowledges db1's writes: it is left in peace" in third
    assert "MB copied from db1" in third
    assert "db2 is in step and can be spared" in spared
    assert json.loads(spared[spared.rindex("{") :])["server"] == "db2"
    same_rows(DB1, DB3)


def test_a_fresh_replica_is_seeded_past_commits_that_wait_for_one(stand: None) -> None:
    apply("db2", "strict")
    in_step("db2")
    old = DB2.address
    relaunch("server", "power-off", "sown/db2")
    writers = [DB1.start("mariadb", text=f"INSERT INTO shop.story (a) VALUES ('waits {n}')") for n in range(3)]

    until(lambda: DB2.address not in ("", "None", old), "another instance")
    in_step("db2")
    # What it had before it began to acknowledge, it never acknowledges: the controller has the primary let go of it.
    until(lambda: all(writer.poll() is not None for writer in writers), "the commits to end")

    assert "MB copied from db1" in DB2.log()
    same_rows(DB1, DB2)
    assert DB2.sql("SELECT COUNT(*) FROM shop.story WHERE a LIKE 'waits %'") == "3"


def test_a_source_that_is_cut_off_half_way_is_left_for_whoever_leads_by_then(stand: None) -> None:
    """The last test: db1 leads no more. The fresh db3 copies from it when its cable is pulled."""
    apply("db2, db3")
    in_step("db2", "db3")
    DB1.run("sed -i 's/^Environment=SEED_BANDWIDTH=.*/Environment=SEED_BANDWIDTH=2000000/'"
            " /etc/systemd/system/relaunch-give-seed@.service && systemctl daemon-reload")  # fmt: skip
    old = DB3.address
    asked = [sys.executable, "-m", "relaunch.cli.main", "server", "relaunch", "sown/db3", "--yes"]
    relaunched = subprocess.Popen(asked, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: DB3.address not in ("", "None", old), "another instance")
        until(lambda: "Copying the data of db1" in relaunch("server", "log", "sown/db3", check=False), "a copy")
        relaunch("server", "cut-off", "sown/db1")

        until(lambda: database()["primary"] == "db2", "db2 to lead")
        until(lambda: "db3" in map(str, database()["sync_set"]), "db3 in step", 400)  # type: ignore[call-overload]
    finally:
        relaunched.wait(timeout=400)

    assert "MB copied from db2" in DB3.log()
    same_rows(DB2, DB3)
