"""How far a replica is behind: by what its primary had when, whatever the replica says of itself."""

from __future__ import annotations

import pytest
from looks import case, look, member, number_covers

from relaunch.databases.change import begin_failover, go_on
from relaunch.databases.looking import Heard, lag

PRIMARY_HAD = [(100.0, "10"), (100.5, "20"), (101.0, "30"), (101.5, "40")]


@pytest.mark.parametrize(
    ("executed", "says", "behind"),
    [
        ("40", 0.0, 0.0),
        ("40", 2.0, 2.0),
        ("39", 0.0, 0.1),  # what it lacks, the primary said 0.1 s before
        ("20", 0.0, 0.6),
        ("20", 7.0, 7.0),
        ("9", 0.0, None),  # before it applied anything MariaDB says 0
        ("40", None, None),
    ],
)
def test_a_replica_is_behind_since_its_primary_had_what_it_lacks(
    executed: str, says: float | None, behind: float | None
) -> None:
    report = member("s2", executed=executed, lag_seconds=says).report
    assert report is not None

    assert lag(report, PRIMARY_HAD, 101.6, number_covers) == behind


def test_what_the_primary_said_later_is_not_held_against_it() -> None:
    report = member("s2", executed="20").report
    assert report is not None

    assert lag(report, PRIMARY_HAD, 100.6, number_covers) == 0.0
    assert lag(report, [], 100.6, number_covers) is None


def test_what_was_heard_says_how_far_behind_a_replica_is() -> None:
    heard = Heard()
    primary, replica = member("s1", executed="0-1-50").report, member("s2", executed="0-1-3").report
    assert primary is not None and replica is not None

    heard.take("s1", primary)
    heard.take("s2", replica)

    truthful, own = heard.truthful("s2", "s1"), heard.truthful("s1", "s1")
    assert truthful is not None and truthful.lag_seconds is None
    assert own == primary


def test_of_two_that_have_received_the_same_the_one_with_less_to_apply_leads() -> None:
    group = begin_failover(case(look()), "process gone")
    behind = {"executed": "3", "received": "9", "role": "revoked", "receiving": False, "epoch": group.epoch}
    seen = look(member("s2", **behind), member("s3", **{**behind, "executed": "8"}))

    promoted = go_on(case(seen, group)).group

    assert promoted.primary == "s3"
