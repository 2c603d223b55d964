"""What the controller is told at its start: read once in `main`, from `<state>/controller.toml` and the environment."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from relaunch.errors import BadInput, FormatError

DEFAULT_STATE = Path("/var/lib/relaunch")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    network: str = "198.18.0.0/16"
    bridge: str = "relaunch0"
    api_port: int = 7443
    bus_port: int = 7422
    dns_zones: list[str] = ["test"]
    templates: list[str] = []
    store_port: int | None = None  # of the controller's own object store; the API's port + 1
    store_endpoint: str = ""  # an S3 elsewhere instead
    store_bucket: str = "backups"
    alert_command: list[str] = []  # run with an alert as JSON on its standard input


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are and which ports they take. Instances reach the controller at `host_address`."""

    state: Path
    network: IPv4Network
    bridge: str
    api_port: int
    bus_port: int
    dns_zones: tuple[str, ...]
    template_folders: tuple[Path, ...]  # searched in order; the last is the one that came with the program
    store_port: int = 7444
    store_endpoint: str = ""  # empty: the object store is our own child
    store_bucket: str = "backups"
    alert_command: tuple[str, ...] = ()

    @property
    def host_address(self) -> str:
        """The host's own address on the bridge: API, bus and DNS for the instances."""
        return str(self.network.network_address + 1)

    @property
    def api_url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def agent_api_url(self) -> str:
        return f"https://{self.host_address}:{self.api_port}"

    @property
    def bus_url(self) -> str:
        return f"tls://{self.host_address}:{self.bus_port}"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.state}/controller.db"

    @property
    def workflow_database_url(self) -> str:
        return f"sqlite:///{self.state}/workflows.db"

    @property
    def admin_token_file(self) -> Path:
        return self.state / "admin-token"

    @property
    def ca_file(self) -> Path:
        return self.state / "ca" / "ca.crt"

    @property
    def ssh_key_file(self) -> Path:
        return self.state / "ssh" / "id_ed25519"

    @property
    def log_folder(self) -> Path:
        return self.state / "logs"


def state_folder(environment: dict[str, str] | None = None) -> Path:
    """RELAUNCH_STATE, or /var/lib/relaunch."""
    return Path((environment or dict(os.environ)).get("RELAUNCH_STATE") or DEFAULT_STATE)


def read_settings(state: Path, *, program_templates: Path) -> Settings:
    """The settings of the controller whose files are in `state`; FormatError names the file and what is wrong."""
    file = state / "controller.toml"
    try:
        raw = _File(**tomllib.loads(file.read_text())) if file.exists() else _File()
        network = IPv4Network(raw.network)
    except (tomllib.TOMLDecodeError, ValidationError, ValueError) as error:
        raise FormatError(str(error), file=str(file)) from None
    if network.prefixlen > 28:
        raise BadInput(f"network {network} is too small", hint="give at least a /28")
    return Settings(
        state=state,
        network=network,
        bridge=raw.bridge,
        api_port=raw.api_port,
        bus_port=raw.bus_port,
        store_port=raw.store_port or raw.api_port + 1,
        store_endpoint=raw.store_endpoint.rstrip("/"),
        store_bucket=raw.store_bucket,
        alert_command=tuple(raw.alert_command),
        dns_zones=tuple(zone.rstrip(".") for zone in raw.dns_zones),
        template_folders=(*(Path(f) for f in raw.templates), state / "templates", program_templates),
    )
