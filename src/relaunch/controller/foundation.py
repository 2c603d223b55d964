"""What every controller has before anything runs: its keys, its store, and the parts that need only these."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import Engine

from relaunch import __version__
from relaunch.clock import Clock
from relaunch.controller.agent_records import AgentRecords
from relaunch.controller.audit import Audit
from relaunch.controller.blobs import BlobFolder
from relaunch.controller.bus import BusPlace
from relaunch.controller.certificates import Authority
from relaunch.controller.enrolments import ssh_key
from relaunch.controller.log import Secrets
from relaunch.controller.output_logs import OutputLogs
from relaunch.controller.settings import Settings
from relaunch.controller.tokens import Tokens
from relaunch.controller.vault import SealedVault, master_key
from relaunch.records.engine import open_database


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    database: Engine
    clock: Clock
    authority: Authority
    tokens: Tokens
    audit: Audit
    vault: SealedVault
    blobs: BlobFolder
    output: OutputLogs
    records: AgentRecords
    ssh_public_key: str
    token_file: Path  # the first token, made at the first start
    session_key: bytes  # signs the dashboard's cookies: the same after a restart


def lay_foundation(settings: Settings, secrets: Secrets, clock: Clock) -> Foundation:
    """Made at the first start, found again at every other."""
    for name in ("controller.db", "workflows.db"):
        (settings.state / name).touch(mode=0o600)  # SQLite would make them readable by everyone
    key = master_key(settings.state / "master.key")
    database = open_database(settings.database_url, program=__version__)
    authority = Authority.open(settings.ca_file.parent, clock)
    authority.keep_issued(
        settings.ca_file.parent, "server", names=("localhost",), addresses=("127.0.0.1", settings.host_address)
    )
    tokens = Tokens(database, clock)
    tokens.ensure_admin(settings.admin_token_file)
    return Foundation(
        database=database,
        clock=clock,
        authority=authority,
        tokens=tokens,
        audit=Audit(database, clock, secrets),
        vault=SealedVault(database, key, clock, secrets),
        blobs=BlobFolder(settings.state / "blobs"),
        output=OutputLogs(settings.log_folder / "runs"),
        records=AgentRecords(database, clock),
        ssh_public_key=ssh_key(settings.ssh_key_file),
        token_file=settings.admin_token_file,
        session_key=hmac.new(key, b"dashboard sessions", hashlib.sha256).digest(),
    )


def bus_place(settings: Settings) -> BusPlace:
    """Where the bus of this controller is."""
    authority = settings.ca_file.parent
    return BusPlace(
        folder=settings.state / "bus",
        log_folder=settings.log_folder,
        host=settings.host_address,
        port=settings.bus_port,
        ca_file=settings.ca_file,
        certificate_file=authority / "server.crt",
        key_file=authority / "server.key",
    )
