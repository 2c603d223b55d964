"""MariaDB servers as processes on loopback addresses of their own, of Debian 12 and 13, in roots made once."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from debian_root import root_with

from relaunch.databases.dialect import Source
from relaunch_agent.database.session import LocalSession

PROGRAM = "/usr/sbin/mariadbd"
PORT = 3306
PASSWORD = "it's a \\ secret"
SETTINGS = (
    "--skip-name-resolve", "--gtid-strict-mode=ON", "--gtid-domain-id=7", "--log-bin=binlog", "--log-slave-updates=ON",
    "--binlog-format=ROW", "--relay-log=relay", "--skip-slave-start", "--read-only=ON", "--sync-binlog=1",
    "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M", "--max-connections=20", "--slave-net-timeout=4",
    "--rpl-semi-sync-master-wait-point=AFTER_SYNC", "--rpl-semi-sync-slave-kill-conn-timeout=1",
)  # fmt: skip


def until(what: str, is_so: Callable[[], bool], *, seconds: float = 10.0) -> float:
    """Wait until it is so; how long that took. AssertionError names it when the time is over."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Authority:
    """A certificate authority, and certificates for addresses."""

    folder: Path
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificate = self._sign("test CA", self.key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        (self.folder / "ca.crt").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, folder: Path, *addresses: str) -> None:
        """ca.crt, server.crt and server.key into a folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        mine = x509.SubjectAlternativeName([*names, x509.DNSName("localhost")])
        certificate = self._sign(f"server {addresses[0]}", key.public_key(), mine)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "ca.crt", folder / "ca.crt")
        (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / "server.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        for file in folder.iterdir():
            file.chmod(0o644)

    def _sign(self, subject: str, public: Any, extension: x509.ExtensionType) -> x509.Certificate:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        now = datetime.datetime.now(datetime.UTC)
        is_ca = isinstance(extension, x509.BasicConstraints)
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=is_ca, crl_sign=is_ca, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        ski = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("test CA"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, is_ca)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski), False)
            .sign(self.key, hashes.SHA256())
        )


@dataclass
class MariaDBServer:
    """One server: started, frozen, killed, started again, in the root of a Debian."""

    number: int
    root: str
    folder: Path  # as seen from the host; inside of `root`
    authority: Authority
    process: subprocess.Popen[bytes] | None = None
    settings: tuple[str, ...] = ()
    network: str = ""  # a network namespace of its own, instead of a loopback address

    @property
    def address(self) -> str:
        return f"198.18.77.{self.number}" if self.network else f"127.0.97.{self.number}"

    @property
    def inside(self) -> str:
        """The folder as the server sees it."""
        return "/" + str(self.folder).removeprefix(self.root).lstrip("/")

    @property
    def socket(self) -> Path:
        return self.folder / "sock"

    @property
    def ca(self) -> str:
        return f"{self.inside}/tls/ca.crt"

    @property
    def source(self) -> Source:
        return Source(address=self.address, port=PORT, user="replication", password=PASSWORD, ca=self.ca)

    def install(self) -> None:
        self.authority.issue(self.folder / "tls", self.address)
        self.folder.parent.chmod(0o755)
        self._inside(
            "mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={self.inside}/data", "--skip-test-db",
            "--auth-root-authentication-method=socket", "--skip-name-resolve", "--force", "--innodb-log-file-size=8M",
        )  # fmt: skip
        self._inside("chown", "mysql", self.inside)

    def _inside(self, *command: str) -> None:
        words = (*(("chroot", self.root) if self.root else ()), *command)
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{words}: {done.stdout[-500:]}{done.stderr[-500:]}"

    def start(self) -> None:
        tls = f"{self.inside}/tls"
        words = (
            *(("ip", "netns", "exec", self.network) if self.network else ()),
            *("setpriv", "--pdeathsig", "KILL"), *(("chroot", self.root) if self.root else ()),
            PROGRAM, "--no-defaults", "--user=mysql", f"--datadir={self.inside}/data", f"--socket={self.inside}/sock",
            f"--pid-file={self.inside}/pid", f"--bind-address={self.address}", f"--port={PORT}",
            f"--report-host={self.address}", f"--server-id={self.number}", f"--ssl-ca={tls}/ca.crt",
            f"--ssl-cert={tls}/server.crt", f"--ssl-key={tls}/server.key", *SETTINGS, *self.settings,
        )  # fmt: skip
        with (self.folder.parent / f"{self.number}.log").open("ab") as log:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(f"MariaDB {self.number} answers", self._answers, seconds=40)

    def _answers(self) -> bool:
        with contextlib.suppress(Exception):
            self.session().close()
            return True
        return False

    def session(self, seconds: float = 30.0) -> LocalSession:
        return LocalSession(str(self.socket), answer_seconds=seconds)

    def client(self, user: str = "app") -> Any:
        """A session of an application, over TCP."""
        return pymysql.connect(
            host=self.address, port=PORT, user=user, password=user, autocommit=True, database="t", connect_timeout=5
        )

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait()

    def make_accounts(self) -> None:
        """On a primary that takes writes."""
        session = self.session()
        secret = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        for statement in (
            f"CREATE USER replication@'%' IDENTIFIED BY '{secret}' REQUIRE SSL",
            "GRANT REPLICATION SLAVE ON *.* TO replication@'%'",
            "CREATE USER relaunch_probe@'%' REQUIRE ISSUER '/CN=test CA'",
            "CREATE USER app@'%' IDENTIFIED BY 'app'",
            "CREATE DATABASE t",
            "GRANT ALL ON t.* TO app@'%'",
            "CREATE TABLE t.a (i INT PRIMARY KEY AUTO_INCREMENT, s VARCHAR(40))",
            "CREATE DATABASE relaunch",
            "CREATE TABLE relaunch.heartbeat (server_id INT UNSIGNED PRIMARY KEY, epoch BIGINT, at DATETIME(3))",
            "GRANT SELECT ON relaunch.heartbeat TO relaunch_probe@'%'",
        ):
            session.run(statement)
        session.close()


def root_of(suite: str) -> Path | None:
    """That Debian with its MariaDB; None where that cannot be."""
    return root_with("mariadb", suite, PROGRAM, "mariadb-server", "mariadb-backup")


@contextlib.contextmanager
def server_alone(number: int) -> Iterator[MariaDBServer]:
    """Of Debian 13, and no member of a group; the test is skipped where that cannot be."""
    root = root_of("trixie")
    if root is None:
        pytest.skip("no MariaDB of Debian 13 here")
    folder = Path(tempfile.mkdtemp(prefix="rlship-", dir=root / "var/tmp"))
    made = MariaDBServer(number, str(root), folder / str(number), Authority(folder / "ca"))
    try:
        made.install()
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def write_until_it_fails(client: Any) -> None:
    """One row again and again: nothing has to grow but the binary log."""
    write = "INSERT INTO a (i, s) VALUES (1, %s) ON DUPLICATE KEY UPDATE s = VALUES(s)"
    with contextlib.suppress(pymysql.MySQLError):
        for number in range(10**6):
            client.cursor().execute(write, (str(number),))
