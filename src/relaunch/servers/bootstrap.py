"""The user data of an instance: how it finds its controller at the first boot, and why it trusts it."""

from __future__ import annotations

import re
from pathlib import Path

from relaunch.errors import BadInput

TEMPLATE = Path(__file__).with_name("bootstrap.sh")


def render_user_data(controller_url: str, token: str, ca_pem: str, agent_sha256: str) -> str:
    """A POSIX shell script; every value is checked, because it is put between quotes as it is."""
    checks = (
        ("controller_url", controller_url, r"https://[A-Za-z0-9.:\[\]-]+/?"),
        ("token", token, r"[A-Za-z0-9._~+/=-]+"),
        ("agent_sha256", agent_sha256, r"[0-9a-f]{64}"),
        ("ca_pem", ca_pem.strip(), r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s-]+-----END CERTIFICATE-----"),
    )
    for name, value, pattern in checks:
        if not re.fullmatch(pattern, value):
            raise BadInput(f"user data: {name} is not of the expected form")
    return TEMPLATE.read_text().format(
        controller_url=controller_url.rstrip("/"), token=token, ca_pem=ca_pem.strip(), agent_sha256=agent_sha256
    )
