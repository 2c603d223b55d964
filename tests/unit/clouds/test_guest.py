from ipaddress import IPv4Network
from pathlib import Path

import pytest

from relaunch.clouds.local.guest import GuestFile, check_host_name, guest_files, move_identity, write_guest_files
from relaunch.errors import BadInput


def files(**more: str) -> dict[str, GuestFile]:
    known = {"instance": "i-0123456789", "name": "web1", "address": "198.18.0.2", "user_data": "", "public_key": ""}
    made = guest_files(network=IPv4Network("198.18.0.0/16"), **{**known, **more})  # type: ignore[arg-type]
    return {file.path: file for file in made}


def test_a_guest_finds_its_name_its_address_and_its_way_out() -> None:
    made = files()

    assert made["etc/hostname"].text == "web1\n"
    assert "Address=198.18.0.2/16\nGateway=198.18.0.1\n" in made["etc/systemd/network/10-host0.network"].text
    assert made["etc/resolv.conf"].text.startswith("nameserver 198.18.0.1\n")
    assert "198.18.0.2 web1\n" in made["etc/hosts"].text
    assert len(made["etc/machine-id"].text) == 33
    assert made["etc/machine-id"].text != files(instance="i-0123456788")["etc/machine-id"].text


def test_user_data_and_key_are_root_s_alone() -> None:
    made = files(user_data="#!/bin/sh\n", public_key="ssh-ed25519 AAAA me")

    assert made["var/lib/cloud/instance/user-data.txt"].mode == 0o700
    assert (made["root/.ssh/authorized_keys"].mode, made["root/.ssh/authorized_keys"].text) == (
        0o600,
        "ssh-ed25519 AAAA me\n",
    )
    assert "root/.ssh/authorized_keys" not in files()


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 64, "a\nb", "ü"])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="host name"):
        check_host_name(name)


def test_folders_get_the_mode_they_have_below(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    upper.mkdir()
    (lower / "root").mkdir(parents=True)
    (lower / "root").chmod(0o700)

    write_guest_files([GuestFile(path="root/.ssh/authorized_keys", text="k", mode=0o600)], upper=upper, lowers=[lower])

    assert (upper / "root").stat().st_mode & 0o777 == 0o700
    assert (upper / "root/.ssh").stat().st_mode & 0o777 == 0o700


def test_identity_is_moved_whole_and_moving_it_again_changes_nothing(tmp_path: Path) -> None:
    upper, identity = tmp_path / "upper", tmp_path / "identity"
    mine = ["etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/relaunch/secret", "var/log/apt/term.log", "tmp/x"]
    shared = ["etc/apache2/ports.conf", "etc/ssh/sshd_config", "srv/app"]
    for path in (*mine, *shared):
        (upper / path).parent.mkdir(parents=True, exist_ok=True)
        (upper / path).write_text(path)

    for _ in range(2):
        move_identity(upper=upper, identity=identity, lowers=[])

    assert sorted(str(file.relative_to(upper)) for file in upper.rglob("*") if file.is_file()) == sorted(shared)
    assert sorted(str(file.relative_to(identity)) for file in identity.rglob("*") if file.is_file()) == sorted(mine)
    assert (upper / "var/log/apt").is_dir(), "programs need the folders of their logs"
