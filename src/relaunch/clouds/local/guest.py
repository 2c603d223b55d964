"""What an instance finds on its disk at its first boot: a pure function, and the writing of it into the instance's
layer."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from relaunch.errors import BadInput

USER_DATA = "var/lib/cloud/instance/user-data.txt"

# What makes an instance that one and no other. Never part of an image made from it.
IDENTITY = (
    "etc/machine-id",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/systemd/network/10-host0.network",
    "etc/relaunch",
    "root/.ssh",
    "root/.bash_history",
    "var/lib/cloud",
    "var/lib/dbus/machine-id",
    "var/lib/relaunch",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/timers",
)
IDENTITY_PATTERNS = ("etc/ssh/ssh_host_*_key*", "tmp/*", "var/tmp/*")
LOGS = "var/log"  # the files in it go, the folders stay: programs need them


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFile:
    path: str  # relative to the guest's root
    text: str
    mode: int = 0o644


def check_host_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9-]{1,63}){0,3}", name):
        raise BadInput(f"{name!r} is no host name", hint="letters, digits and hyphens; begins with a letter or digit")


def guest_files(
    *, instance: str, name: str, address: str, network: IPv4Network, user_data: str, public_key: str
) -> list[GuestFile]:
    """The files of a new instance; the host's address on the bridge is its way out and its name server."""
    host = str(network.network_address + 1)
    files = [
        GuestFile(path="etc/machine-id", text=hashlib.sha256(f"relaunch {instance}".encode()).hexdigest()[:32] + "\n"),
        GuestFile(path="etc/hostname", text=f"{name}\n"),
        GuestFile(
            path="etc/hosts",
            text=f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} {name}\n",
        ),
        GuestFile(path="etc/resolv.conf", text=f"nameserver {host}\noptions timeout:2 attempts:2\n"),
        GuestFile(
            path="etc/systemd/network/10-host0.network",
            text=(
                "# Written by the local cloud at the launch: the address is fixed, nothing waits for DHCP.\n"
                "[Match]\nName=host0\n\n"
                f"[Network]\nAddress={address}/{network.prefixlen}\nGateway={host}\n"
                "LinkLocalAddressing=no\nIPv6AcceptRA=no\nDHCP=no\nLLDP=no\nEmitLLDP=no\n"
            ),
        ),
    ]
    if user_data:
        files.append(GuestFile(path=USER_DATA, text=user_data, mode=0o700))
    if public_key:
        files.append(GuestFile(path="root/.ssh/authorized_keys", text=public_key.rstrip("\n") + "\n", mode=0o600))
    return files


def write_guest_files(files: Sequence[GuestFile], *, upper: Path, lowers: Sequence[Path]) -> None:
    """Write them into the instance's own layer; folders get the mode they have in the image below."""
    for file in files:
        target = upper / file.path
        _make_folders(Path(file.path).parent, upper, lowers)
        if target.is_symlink() or target.exists():
            target.unlink()
        target.write_text(file.text)
        target.chmod(file.mode)


def _make_folders(path: Path, upper: Path, lowers: Sequence[Path]) -> None:
    for folder in [*reversed(path.parents), path]:
        own = upper / folder
        if own.exists():
            continue
        own.mkdir()
        below = next((lower / folder for lower in lowers if (lower / folder).is_dir()), None)
        if below is not None:
            status = below.stat()
            os.chown(own, status.st_uid, status.st_gid)
            own.chmod(status.st_mode & 0o7777)
        elif folder.name == ".ssh":
            own.chmod(0o700)


def move_identity(*, upper: Path, identity: Path, lowers: Sequence[Path]) -> None:
    """Take what belongs to this instance alone out of its layer into a tree of its own; can be repeated."""
    identity.mkdir(exist_ok=True)
    found = [upper / path for path in IDENTITY]
    for pattern in IDENTITY_PATTERNS:
        found += upper.glob(pattern)
    logs = upper / LOGS
    if logs.is_dir():
        found += [Path(folder) / file for folder, _, files in os.walk(logs) for file in files]
    for path in found:
        if not (path.is_symlink() or path.exists()):
            continue
        inside = path.relative_to(upper)
        _make_folders(inside.parent, identity, [upper, *lowers])
        target = identity / inside
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        path.rename(target)
