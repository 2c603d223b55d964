"""Whatever a page or red backups say is looked up at night: the manual says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relaunch.databases import backup_colour, failover, pages
from relaunch.databases.backup_schemas import red_schemas
from relaunch.databases.backups import Backup, Kind, Known, Proof, Schedule, Shipping, status
from relaunch.databases.overtaken import OVERTAKEN
from relaunch.databases.rules import DETECTION, PERMISSION, Verdict

DO = Path(__file__).parents[3] / "docs/do"
DATABASES = Path(pages.__file__).parent
NAME_THEIR_COMMAND = {"replica differs", "extra transactions"}
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=90)
OLD = Backup(
    id="old", kind=Kind.FULL, parent=None, server="db1", role="primary", begun=LONG_AGO, ended=LONG_AGO, gtid="0-1-1",
    stored_bytes=1, data_bytes=1, recipient="age1", lineage="l",
)  # fmt: skip
SCHEMA = replace(OLD, id="s", kind=Kind.SCHEMA, schema="blog")
PROVEN = Proof(backup="old", at=LONG_AGO, proven=True)
LATE = Known(backups=(OLD,), proofs=(PROVEN,), shipping=Shipping(at=LONG_AGO, gtid="0-1-1", server="db1", stream="s"))
AHEAD = NOW + timedelta(days=1)
KNOWN = (
    Known(backups=()),
    LATE,
    replace(LATE, backups=(OLD, replace(OLD, id="lost", parent="gone"))),
    replace(LATE, unreadable=("torn",), failed=(("full backup of db1", "no room"),)),
    replace(LATE, proofs=(replace(PROVEN, proven=False, why="rows differ"),)),
    replace(LATE, backups=(OLD, replace(OLD, id="ahead", ended=AHEAD))),
    replace(LATE, shipping=Shipping(at=AHEAD, gtid="0-1-1", server="db1", stream="s")),
)
SCHEMAS = (
    (),
    (SCHEMA,),
    (replace(SCHEMA, fault="object dump is missing"),),
    (replace(SCHEMA, begun=NOW - timedelta(hours=3), ended=NOW - timedelta(hours=3)),),
)


def phrases(page: str) -> list[list[str]]:
    """What the first columns of its tables quote: the parts of each, between which anything may stand."""
    cells = re.findall(r"^\| (.+?) \|", (DO / page).read_text(), re.MULTILINE)
    quoted = [each for cell in cells for each in re.findall(r"`([^`]+)`", cell)]
    return [[part for each in re.split(r"…|WHY", quote) if (part := each.strip(" :"))] for quote in quoted]


def unexplained(reasons: Iterable[str]) -> list[str]:
    """A quote of a word or two could stand in anything."""
    quotes = [parts for parts in phrases("backups.md") if sum(map(len, parts)) > 10 or parts == ["failed"]]
    return [each for each in reasons if not any(re.search(".*".join(map(re.escape, one)), each) for one in quotes)]


def test_every_page_is_explained():
    sources = "".join(file.read_text() for file in DATABASES.glob("*.py"))
    rules = set(re.findall(r'Page\(rule="([^"]+)"', sources)) | {
        OVERTAKEN,
        "not launched",
        "not joined",
        "not replaced",
    }
    rules |= {rule.name for rule in DETECTION if rule.verdict is Verdict.PAGE}
    rules |= {f"no failover: {refusal.name}" for refusal in PERMISSION}
    assert failover.OVERTAKEN in rules and len(rules) > 30
    said = [parts[-1] for parts in phrases("look-after-a-database.md") if parts]

    missing = {rule for rule in rules - NAME_THEIR_COMMAND if rule not in said}
    assert {rule for rule in missing if rule.removeprefix("no failover: ") not in said} == set()


@pytest.mark.parametrize("known", KNOWN)
def test_every_reason_to_be_red_is_explained(known):
    reasons = status(known, Schedule(), NOW).reasons

    assert reasons and unexplained(reasons) == []


@pytest.mark.parametrize("schemas", SCHEMAS)
def test_every_reason_of_a_schema_to_be_red_is_explained(schemas):
    reasons = red_schemas(Known(backups=(), schemas=schemas), ("blog",), Schedule(), NOW)

    assert reasons and unexplained(reasons) == []


def test_what_servers_say_of_their_backups_is_explained():
    assert unexplained((*backup_colour.SAID.values(), backup_colour.SNAPSHOTS)) == []
