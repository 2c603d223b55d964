"""MySQL servers of Debian sid for the contract tests: real processes, each in a network namespace of its own.

The root they run in is made once by the recipe `images/sid-mysql` and kept under the test state folder.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pymysql
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from small_disk import small_disk

from relaunch.clouds.local.images import recipe_hash
from relaunch.databases.dialect import Source
from relaunch.errors import Failed, Unavailable

RECIPE = Path(__file__).parents[2] / "images" / "sid-mysql"
BRIDGE, NETWORK = "rlmysT", "198.19.1"
PASSWORD = "it's a \\ secret"
LOST = {2003, 2006, 2013, 2014, 2055}

CONFIG = """
[mysqld]
user = root
mysqlx = OFF
secure_file_priv = NULL
skip_name_resolve = ON
innodb_redo_log_capacity = 8M
innodb_buffer_pool_size = 32M
innodb_log_buffer_size = 1M
max_connections = 50
log_bin = binlog
relay_log = relay
gtid_mode = ON
enforce_gtid_consistency = ON
sync_binlog = 1
sync_relay_log = 1
relay_log_recovery = OFF
skip_replica_start = ON
replica_net_timeout = 4
super_read_only = ON
plugin_load_add = semisync_source.so
plugin_load_add = semisync_replica.so
plugin_load_add = mysql_clone.so
"""
ACCOUNTS = f"""
SET SESSION sql_log_bin = 0;
CREATE USER 'agent'@'%' IDENTIFIED BY 'agent' REQUIRE SSL;
GRANT ALL ON *.* TO 'agent'@'%' WITH GRANT OPTION;
CREATE USER 'replication'@'%' IDENTIFIED BY '{PASSWORD.replace(chr(92), chr(92) * 2).replace("'", "''")}' REQUIRE SSL;
GRANT REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO 'replication'@'%';
CREATE DATABASE shop;
CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, what VARCHAR(100)) ENGINE = InnoDB;
CREATE USER 'app'@'%' IDENTIFIED BY 'app' REQUIRE SSL;
GRANT ALL ON shop.* TO 'app'@'%';
"""


def until(what: str, is_so: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait until it is so; AssertionError naming it when the time is over."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class TestSession:
    """The dialects' Session on PyMySQL."""

    __test__ = False

    def __init__(self, connection: pymysql.Connection[Any]) -> None:
        self.connection = connection

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        try:
            with self.connection.cursor(pymysql.cursors.DictCursor) as cursor:
                cursor.execute(statement, values or None)
                return list(cursor.fetchall())
        except pymysql.MySQLError as error:
            code = error.args[0] if error.args else 0
            raise (Unavailable if code in LOST else Failed)(f"{statement}: {error.args}") from error

    def run(self, statement: str, *values: Any) -> None:
        self.rows(statement, *values)

    def close(self) -> None:
        """Also under a thread that waits for an answer: that one gets an error."""
        with contextlib.suppress(pymysql.MySQLError, OSError, AttributeError):
            self.connection._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        with contextlib.suppress(pymysql.MySQLError, OSError):
            self.connection.close()


@dataclass
class Server:
    """One MySQL server: started, frozen, killed, cut off."""

    number: int
    root: Path
    data: str  # inside the root
    ca: Path
    process: subprocess.Popen[bytes] | None = None
    sessions: list[TestSession] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{NETWORK}.{10 + self.number}"

    @property
    def namespace(self) -> str:
        return f"{BRIDGE}{self.number}"

    @property
    def source(self) -> Source:
        return Source(
            address=self.address, port=3306, user="replication", password=PASSWORD, ca=f"{self.data}/ours-ca.crt"
        )

    def launch(self) -> None:
        with (self.root / self.data.lstrip("/") / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace),
                    *("chroot", self.root, "/usr/sbin/mysqld", f"--defaults-file={self.data}/my.cnf"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_it_answers(self) -> None:
        log = self.root / self.data.lstrip("/") / "log"

        def answers() -> bool:
            assert self.process is not None and self.process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(Unavailable):
                self.session().close()
                return True
            return False

        until(f"MySQL {self.number} answers", answers, seconds=30)

    def restart(self) -> None:
        self.kill()
        self.launch()
        self.wait_until_it_answers()

    def session(self, user: str = "agent", *, seconds: float = 30.0) -> TestSession:
        try:
            connection = pymysql.connect(
                **{"host": self.address, "user": user, "password": user, "autocommit": True},
                **{"ssl_ca": str(self.ca), "ssl_verify_identity": True},
                **{"connect_timeout": 2, "read_timeout": seconds, "write_timeout": seconds},
            )
        except (pymysql.MySQLError, OSError) as error:
            raise Unavailable(f"MySQL {self.number}: {error}") from error
        session = TestSession(connection)
        self.sessions.append(session)
        return session

    def other_address(self) -> str:
        """One more address of it, which its certificate does not name."""
        address = f"{NETWORK}.{100 + self.number}"
        command = ["ip", "-n", self.namespace, "address", "replace", f"{address}/24", "dev", "host0"]
        subprocess.run(command, check=True, timeout=10)
        return address

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def cut(self) -> None:
        """Silent from now on, in both directions."""
        run("ip", "link", "set", self.namespace, "down")

    def mend(self) -> None:
        run("ip", "link", "set", self.namespace, "up")

    def close_sessions(self) -> None:
        for session in self.sessions:
            session.close()
        self.sessions.clear()

    def kill(self) -> None:
        self.close_sessions()
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def run(*command: str | Path) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr[-2000:]}"


FOLLOW_NOBODY = (
    *("SET GLOBAL rpl_semi_sync_source_enabled = OFF", "SET GLOBAL rpl_semi_sync_replica_enabled = OFF"),
    *("STOP REPLICA", "RESET REPLICA ALL", "CHANGE REPLICATION FILTER REPLICATE_WILD_IGNORE_TABLE = ()"),
)
EMPTY = (
    *("SET GLOBAL offline_mode = ON", "SET GLOBAL offline_mode = OFF"),  # throws out replicas and clients
    *("SET SESSION lock_wait_timeout = 3", "SET GLOBAL read_only = OFF", "SET SESSION sql_log_bin = 0"),
    *("TRUNCATE shop.orders", "SET SESSION sql_log_bin = 1", "RESET BINARY LOGS AND GTIDS"),
    "SET GLOBAL super_read_only = ON",
)


def all_done(server: Server, statements: Sequence[str]) -> bool:
    """Whether a running server did all of this, in a session with nobody else of the agent's connected."""
    try:
        session = server.session(seconds=10)
        for other in session.rows("SHOW PROCESSLIST"):
            if other["User"] == "agent" and other["Info"] is None:
                with contextlib.suppress(Failed):
                    session.run(f"KILL {other['Id']}")
        for statement in statements:
            session.run(statement)
    except (Unavailable, Failed):
        return False
    finally:
        server.close_sessions()
    return True


def follows_nobody(server: Server) -> bool:
    return all_done(server, FOLLOW_NOBODY)


def empty_again(server: Server) -> bool:
    return all_done(server, EMPTY)


def cached_root() -> tuple[Path, Path]:
    """The root with MySQL in it, and in that a data directory to copy."""
    state = Path(os.environ.get("RELAUNCH_TEST_STATE") or "/var/tmp/relaunch-test")
    cache = state.parent / f"{state.name}-cache"
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"sid-mysql-{recipe_hash(RECIPE)[:12]}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            half = cache / "half"
            shutil.rmtree(half, ignore_errors=True)
            run(RECIPE / "build", half)
            half.rename(root)
        return root, make_template(root)


def make_template(root: Path) -> Path:
    """A data directory nobody has started yet, kept with the root for every later run."""
    content = hashlib.sha256((CONFIG + ACCOUNTS).encode()).hexdigest()[:12]
    template = root / "servers" / f"template-{content}"
    if not template.exists():
        half = root / "servers" / "half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        (half / "init.sql").write_text(ACCOUNTS)
        (half / "my.cnf").write_text(CONFIG.split("super_read_only")[0])
        run(
            *("chroot", root, "/usr/sbin/mysqld", "--defaults-file=/servers/half/my.cnf", "--initialize-insecure"),
            *("--datadir=/servers/half/data", "--init-file=/servers/half/init.sql"),
        )
        data = half / "data"
        for own in [data / "auto.cnf", *data.glob("binlog.*"), *data.glob("*.pem")]:
            own.unlink()
        data.rename(template)
        shutil.rmtree(half)
    return template


def make_certificates(folder: Path, addresses: list[str]) -> None:
    """A CA, and a certificate for each address."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, key: Any, issuer: str, signer: Any, extension: Any, ca: bool) -> bytes:
        builder = x509.CertificateBuilder(
            subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(days=1),
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(extension, critical=False)
        usage = {name: False for name in ("content_commitment", "key_encipherment", "data_encipherment")}
        usage |= {name: False for name in ("key_agreement", "encipher_only", "decipher_only")}
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
        )
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def pem(key: Any) -> bytes:
        return bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    folder.mkdir(parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    (folder / "ca.crt").write_bytes(certificate("test CA", authority, "test CA", authority, identifier, True))
    for address in addresses:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        (folder / f"{address}.crt").write_bytes(certificate("a database", key, "test CA", authority, names, False))
        (folder / f"{address}.key").write_bytes(pem(key))


def remove_network() -> None:
    for number in range(1, 4):
        subprocess.run(["ip", "netns", "del", f"{BRIDGE}{number}"], capture_output=True, timeout=30)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, timeout=30)


def make_network() -> None:
    remove_network()
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for number in range(1, 4):
        name = f"{BRIDGE}{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", name, "master", BRIDGE, "type", "veth", "peer", "name", "host0", "netns", name)
        run("ip", "link", "set", name, "up")
        inside = ("ip", "-n", name)
        run(*inside, "address", "add", f"{NETWORK}.{10 + number}/24", "dev", "host0")
        run(*inside, "link", "set", "host0", "up")
        run(*inside, "link", "set", "lo", "up")


class MySQLLab:
    """Three servers; `fresh` gives them empty and unconnected again."""

    def __init__(self) -> None:
        self.root, self.template = cached_root()
        for left in (self.root / "servers").iterdir():  # of a run that was killed
            if left.name.isdigit() and not Path("/proc", left.name).exists():
                shutil.rmtree(left)
        self.folder = f"/servers/{os.getpid()}"
        host_folder = self.root / self.folder.lstrip("/")
        self.host_folder = host_folder
        make_certificates(host_folder / "tls", [f"{NETWORK}.{10 + number}" for number in range(1, 4)])
        make_network()
        self.servers = [
            Server(number, self.root, f"{self.folder}/{number}", host_folder / "tls" / "ca.crt")
            for number in range(1, 4)
        ]

    def fresh(self) -> list[Server]:
        """All three running, with the same empty table and no transaction of their own."""
        for server in self.servers:
            server.mend()
            if server.process is not None:
                server.thaw()
            server.close_sessions()
        running = [server for server in self.servers if server.process is not None and follows_nobody(server)]
        for server in self.servers:
            if server not in running or not empty_again(server):
                server.kill()
                self._lay_out(server)
                server.launch()
        for server in self.servers:
            server.wait_until_it_answers()
        return self.servers

    @contextlib.contextmanager
    def on_a_small_disk(self, megabytes: int) -> Iterator[tuple[Server, Callable[[], None]]]:
        """The first server, laid out anew on a disk of its own, and what fills that; stopped in the end."""
        ours = self.servers[0]
        ours.kill()
        small = replace(ours, data=f"{self.folder}/small/1", sessions=[])
        with small_disk(self.host_folder / "small", megabytes) as fill:
            try:
                self._lay_out(small)
                small.launch()
                small.wait_until_it_answers()
                yield small, fill
            finally:
                small.kill()

    def _lay_out(self, server: Server) -> None:
        data, tls = self.root / server.data.lstrip("/"), self.host_folder / "tls"
        shutil.rmtree(data, ignore_errors=True)
        run("cp", "-a", "--reflink=auto", self.template, data)
        shutil.copy(tls / "ca.crt", data / "ours-ca.crt")
        shutil.copy(tls / f"{server.address}.crt", data / "ours.crt")
        shutil.copy(tls / f"{server.address}.key", data / "ours.key")
        (data / "my.cnf").write_text(
            CONFIG + f"server_id = {server.number}\n"
            f"report_host = {server.address}\ndatadir = {server.data}\nsocket = {server.data}/socket\n"
            f"pid_file = {server.data}/pid\nssl_ca = {server.data}/ours-ca.crt\n"
            f"ssl_cert = {server.data}/ours.crt\nssl_key = {server.data}/ours.key\n"
        )

    def close(self) -> None:
        for server in self.servers:
            server.kill()
        remove_network()
        shutil.rmtree(self.host_folder, ignore_errors=True)


@contextlib.contextmanager
def mysql_lab() -> Iterator[MySQLLab]:
    lab = MySQLLab()
    try:
        yield lab
    finally:
        lab.close()
