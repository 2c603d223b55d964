"""What failover decides of a group whose data was put back to an earlier position: its primary goes on, alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from looks import GONE, NOW, REFUSED, STOPPED, SYNC, decided, look, member, obeyed

from relaunch.databases.backup_restore import _alone
from relaunch.databases.group import Group, Mode

OTHERS = frozenset({"s2", "s3"})
RESTORED = _alone(SYNC, OTHERS, NOW)


def test_the_replicas_are_fenced_whatever_they_have() -> None:
    decision = decided(look(), RESTORED)

    assert {decision.orders[id].role for id in OTHERS} == {"fenced"}
    assert decision.orders["s1"].role == "primary" and not decision.orders["s1"].required
    assert decision.group.epoch > SYNC.epoch


def test_the_primary_takes_writes_again_with_less_than_the_replicas_have() -> None:
    started = member("s1", executed="3", received="3", started="2", read_only=True, role="fenced", epoch=6)

    decision = decided(obeyed(RESTORED, look(started), *OTHERS), RESTORED)

    assert decision.orders["s1"].role == "primary"
    assert decision.group == RESTORED, decision.rule  # and no failover begins


def test_the_replicas_are_replaced_once_the_primary_takes_writes() -> None:
    assert decided(obeyed(RESTORED, look(member("s1", executed="3")), "s1", *OTHERS), RESTORED).replace == OTHERS


@pytest.mark.parametrize("primary", [STOPPED, GONE])
@pytest.mark.parametrize("paused", ["restore t", ""])
def test_no_fenced_replica_becomes_the_primary_while_the_data_is_swapped(primary: object, paused: str) -> None:
    group: Group = replace(RESTORED, paused=paused)
    seen = obeyed(group, look(primary, **REFUSED), *OTHERS)  # type: ignore[arg-type]

    decision = decided(seen, group)

    assert decision.group.change is None and decision.group.primary == "s1"
    assert decision.group.mode is Mode.FORMING


@pytest.mark.parametrize("durability", ["strict", "available"])
def test_that_there_is_one_copy_only_is_a_page(durability: str) -> None:
    group = _alone(replace(SYNC, durability=durability), OTHERS, NOW)
    alone = obeyed(group, replace(look(member("s1", executed="3")), now=NOW + 10), "s1", *OTHERS)

    decision = decided(alone, group)

    assert decision.group == group, decision.rule
    assert "writes are on the primary alone" in {page.rule: page.text for page in decision.pages}["one copy only"]
