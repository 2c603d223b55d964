"""Whom backups are taken from, and whom a restore goes to: the roles of now, not those at boot."""

from __future__ import annotations

from relaunch.databases.backup_members import role_now
from relaunch.databases.group import Group


def test_after_a_failover_the_new_primary_is_the_primary_and_a_switched_over_one_a_replica() -> None:
    group = Group(name="shop", epoch=2, primary="i-2", durability="strict", initialised=True, fenced=frozenset({"i-3"}))

    assert role_now(group, "i-2", "replica") == "primary"
    assert role_now(group, "i-1", "primary") == "replica"
    assert role_now(group, "i-3", "primary") == ""  # what is fenced is no backup's source
    assert role_now(group, "i-4", "") == ""  # it has not joined yet
    assert role_now(None, "i-1", "primary") == "primary"
