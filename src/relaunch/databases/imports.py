"""What may be imported from where: pure, from what was asked and what a look at both servers found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaunch.errors import BadInput

SCHEMA = re.compile(r"[A-Za-z0-9_$-]{1,64}")
SYSTEM = ("mysql", "sys", "information_schema", "performance_schema", "relaunch", "relaunch_trial")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
MYSQL_PORT = 3306
ROOM = 1.5  # the copy's rows, and what they write into the binary log on the way
MEMBERS_NUMBERS = 4_000_000_000  # from here on are the numbers by which members follow
GRANTS = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "REPLICATION SLAVE", "BINLOG MONITOR")
MYSQL_GRANTS = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "LOCK TABLES", "REPLICATION SLAVE", "REPLICATION CLIENT")
OLDEST_MYSQL = (5, 7)
DUMP = "relaunch db import --from-dump"
LATER_END = (11, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A server that is not ours, and which of its schemas are wanted."""

    host: str
    port: int
    user: str
    schemas: tuple[str, ...]

    @property
    def shown(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What forbids it, and what a person should know."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def read_source(server: str, user: str, schemas: Sequence[str]) -> Source:
    """`server` is HOST, HOST:PORT or [IPv6]:PORT."""
    host, port = server, ""
    if server.startswith("["):
        host, bracket, rest = server.partition("]")
        host, port = host + bracket, rest.removeprefix(":")
    elif server.count(":") == 1:
        host, _, port = server.partition(":")
    if not HOST.fullmatch(host) or not (port or str(MYSQL_PORT)).isdecimal():
        raise BadInput(f"{server!r} is no server", hint="HOST or HOST:PORT, like db.example:3306 or [2001:db8::1]:3306")
    number = int(port or MYSQL_PORT)
    if not 0 < number < 65536:
        raise BadInput(f"{number} is no port")
    if not user or len(user) > 128 or any(ord(letter) < 32 for letter in user):
        raise BadInput(f"{user!r} is no user's name")
    if not schemas:
        raise BadInput("say which schemas", hint="--schema NAME, once for each")
    if len(set(schemas)) != len(schemas):
        raise BadInput("a schema is named twice")
    return Source(host=host.strip("[]"), port=number, user=user, schemas=tuple(map(schema_name, schemas)))


def schema_name(text: str) -> str:
    if not SCHEMA.fullmatch(text):
        raise BadInput(f"{text!r} cannot be imported as a schema", hint="letters, digits, _ $ - only")
    if text.lower() in SYSTEM:
        raise BadInput(f"the schema {text} is the server's own")
    return text


def judge(facts: Mapping[str, Any], source: Source) -> Verdict:
    """`facts` as the script import_from_server.sh prints them."""
    there, here = facts["there"], facts.get("here", {})
    if there is None:
        return Verdict(problems=(f"{source.shown} does not let us in: {facts.get('error', '')}".strip(),), warnings=())
    unlike = _unlike(source, str(there["version"]), str(here.get("version", "")))
    if unlike:
        return Verdict(problems=(unlike,), warnings=())
    return Verdict(problems=tuple(_problems(facts, there, here, source)), warnings=tuple(_warnings(facts, there, here)))


def _unlike(source: Source, theirs: str, ours: str) -> str:
    """Why a server of that version cannot be followed by one of ours; empty when it can."""
    if _is_mariadb(ours) and not _is_mariadb(theirs):
        return (
            f"{source.shown} is MySQL ({theirs}): its binary log is none that MariaDB can follow. Import it by a dump: "
            f"mysqldump --single-transaction --routines --events --triggers, then {DUMP}"
        )
    if _is_mariadb(theirs) and not _is_mariadb(ours):
        return (
            f"{source.shown} is MariaDB ({theirs}): its binary log is none that MySQL can follow. Import it by a dump: "
            f"mariadb-dump --single-transaction --routines --events --triggers, then {DUMP}; or give the deployment "
            "servers of the template mysql, which is MariaDB"
        )
    if _is_mariadb(theirs):
        return ""
    number = _series(theirs)
    if number < OLDEST_MYSQL:
        return f"{source.shown} is MySQL {theirs}, too old to be followed: import it by a dump ({DUMP})"
    if number > _series(ours):
        return f"{source.shown} is MySQL {theirs}, newer than ours, {ours}: import it by a dump ({DUMP})"
    return ""


def _is_mariadb(version: str) -> bool:
    return "mariadb" in version.lower()


def _ends_in_2038(version: str) -> bool:
    """Of a present row in a system-versioned table; in 2106 since."""
    return _series(version) < LATER_END


def _series(version: str) -> tuple[int, int]:
    found = re.match(r"([0-9]+)\.([0-9]+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _problems(facts: Mapping[str, Any], there: Mapping[str, Any], here: Mapping[str, Any], source: Source) -> list[str]:
    found = []
    missing = sorted(set(source.schemas) - set(facts["schemas"]))
    if missing:
        found.append(f"there is no schema {', '.join(missing)}, or {source.user} may not see it")
    if not int(there["log_bin"]):
        found.append("its binary log is off: log_bin in its settings, and a restart, or import by a dump")
    elif there.get("binlog_format", "ROW") != "ROW":
        found.append(f"its binlog_format is {there['binlog_format']}: SET GLOBAL binlog_format = ROW, and reconnect")
    if there["binlog_row_image"] not in ("FULL", "FULL_NODUP"):
        found.append(f"its binlog_row_image is {there['binlog_row_image']}: SET GLOBAL binlog_row_image = FULL")
    if int(there.get("binlog_transaction_compression", 0)):
        found.append("its binlog_transaction_compression is ON: SET GLOBAL binlog_transaction_compression = OFF")
    needed = GRANTS if _is_mariadb(str(there["version"])) else MYSQL_GRANTS
    lacking = missing_grants(facts["grants"], source.schemas, needed)
    if lacking:
        found.append(f"{source.user} lacks {', '.join(lacking)}: GRANT {', '.join(needed)} ON *.* TO {source.user}")
    elif int(there["log_bin"]) and not facts["position"]:
        found.append("it does not say where its binary log stands (SHOW MASTER STATUS, SHOW BINARY LOG STATUS)")
    if facts["unknown"]:
        found.append(f"our servers do not know the collations {', '.join(facts['unknown'])}")
    if int(facts["bytes"]) * ROOM > int(facts["free"]):
        found.append(
            f"the schemas have {megabytes(facts['bytes'])}, and {megabytes(facts['free'])} of our disk are free: "
            f"{ROOM:g} times as much is needed"
        )
    again = facts["stage"] == "copying" and _is_of(facts, source)
    if facts["stage"] == "copying" and not again:
        found.append(f"a copy of {facts['wanted']} broke off and was not undone: relaunch db import --cancel")
    if facts["full"] and not again:
        found.append(
            f"there are tables in our {', '.join(facts['full'])}: drop them, or cancel the import that made them"
        )
    if facts["stage"] in ("following", "cut"):
        found.append("an import is under way or not put away: relaunch db import --status, --cut-over or --cancel")
    if int(there["lower_case_table_names"]) != int(here["lower_case_table_names"]):
        found.append("lower_case_table_names differs: names would mean other tables")
    versioned = facts.get("versioned", [])
    if versioned and _ends_in_2038(str(there["version"])) != _ends_in_2038(str(here["version"])):
        found.append(
            "it and our servers are from before and since MariaDB 11.5, which write the end of a present row of "
            f"system-versioned tables differently: import {', '.join(versioned)} by a dump ({DUMP})"
        )
    taken = sorted(each for each in facts["replicas"] if int(each) >= MEMBERS_NUMBERS)
    if taken:
        found.append(f"somebody follows it as server {', '.join(taken)}, a number that ours need")
    return found


def _is_of(facts: Mapping[str, Any], source: Source) -> bool:
    """Whether the import that is noted here was this one; an earlier release did not note from where."""
    return tuple(facts["wanted"].split()) == source.schemas and facts["source"] in ("", source.shown)


def _warnings(facts: Mapping[str, Any], there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = []
    if facts["odd"]:
        found.append(
            f"tables that are not transactional: {', '.join(facts['odd'])}. The copy sees them at another moment than "
            "the rest, and a failover may lose their rows: ALTER TABLE … ENGINE = InnoDB there first"
        )
    if facts["keyless"]:
        found.append(f"tables without a primary key, which are slow to follow: {', '.join(facts['keyless'])}")
    if facts["events"]:
        found.append(f"events, which do not run here by themselves: {', '.join(facts['events'])}")
    modes = set(str(there["sql_mode"]).split(",")) ^ set(str(here["sql_mode"]).split(","))
    if modes - {""}:
        found.append(
            f"sql_mode differs in {', '.join(sorted(modes - {''}))}: the application may see other errors here"
        )
    if int(there["server_id"]) == int(here["server_id"]):
        found.append(
            f"its server_id is ours, {here['server_id']}: no matter, as its events are written here under ours"
        )
    if not facts["cipher"]:
        found.append("the connection to it is not encrypted: use it on a network that you trust")
    if not any("CREATE USER" in each or "ALL PRIVILEGES ON *.*" in each for each in facts["grants"]):
        found.append(
            "it will not let us lock accounts: at the cut-over you stop the application, we wait until it is quiet"
        )
    return found


def missing_grants(grants: Sequence[str], schemas: Sequence[str], needed: Sequence[str] = GRANTS) -> list[str]:
    """Those that none of the lines gives on everything; or, for tables' rights, on each of the schemas."""
    given: dict[str, set[str]] = {}
    for line in grants:
        found = re.match(r"GRANT (.+?) ON (?:`?([^`]+?)`?)\.\* TO ", line)
        if found:
            where = found[2].replace("\\_", "_").replace("\\%", "%")
            given.setdefault(where, set()).update(word.strip() for word in found[1].split(","))

    def has(right: str, where: str) -> bool:
        names = {right, "REPLICATION CLIENT"} if right == "BINLOG MONITOR" else {right}
        return bool(given.get(where, set()) & (names | {"ALL PRIVILEGES"}))

    of_server = ("REPLICATION SLAVE", "BINLOG MONITOR", "REPLICATION CLIENT")
    return [
        right
        for right in needed
        if not has(right, "*") and (right in of_server or not all(has(right, schema) for schema in schemas))
    ]


def megabytes(count: int | str) -> str:
    return f"{int(count) / 1e6:.0f} MB"


def shown_status(status: Mapping[str, Any]) -> dict[str, Any]:
    """What people want to know of a running import. Lag is 0 once everything that was written there has arrived."""
    row, follower = status["import"], status["follower"] or {}
    if row is None:
        return {"stage": "none", "why": "nothing is being imported"}
    here = f"{row['file']} {row['position']}"
    arrived = here == status["there"]
    lag = 0.0 if arrived else max(0.0, float(row["now"]) - float(row["foreign_time"])) if row["foreign_time"] else None
    follows = follower.get("state") == "follows"
    return {
        "stage": row["stage"],
        "schemas": row["schemas"].split(),
        "follows": follows,
        "why": "" if follows else follower.get("error") or "no follower runs on the primary",
        "position": here,
        "position_there": status["there"],
        "lag_seconds": None if row["stage"] != "following" or lag is None else round(lag, 1),
        "last_change": row["changed"],
        "locked": row["locked"].splitlines(),
        "error": status["error"],
    }
