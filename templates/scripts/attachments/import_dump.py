"""Fetch, look through and load a dump of mariadb-dump or mysqldump. Standard library only.

    import_dump.py fetch SHA256 FILE              from the controller, with this server's own credential
    import_dump.py look FILE                      facts as JSON
    import_dump.py load FILE DEFINER CNF [SCHEMA] through the client; SCHEMA replaces the dump's only one
    import_dump.py copy DEFINER CNF < DUMP        the same from standard input; prints where the source's log stood

What is loaded is the dump but for what belongs to another server: accounts and grants, its system schemas, settings of
the whole server or of its binary log. `DEFINER=` becomes the account given, as the dump's does not exist here.
"""

import base64
import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request

from schema_names import for_schema

SYSTEM = ("mysql", "sys", "information_schema", "performance_schema")
LOOKED_AT = 400  # of a line's beginning: rows are long and need no look
USE = re.compile(rb"USE `?((?:[^`;]|``)+?)`?\s*;\s*$", re.I)
CREATE_DATABASE = re.compile(rb"CREATE DATABASE\b.*?`((?:[^`]|``)+)`(.*)", re.I)
CREATE_TABLE = re.compile(rb"CREATE TABLE (?:IF NOT EXISTS )?`((?:[^`]|``)+)`", re.I)
FLOAT = re.compile(rb"\s+`((?:[^`]|``)+)` float(?!\()", re.I)
ENGINE = re.compile(rb"\) .*?ENGINE\s*=\s*(\w+)", re.I)
COLLATE = re.compile(rb"(?<![A-Za-z_])COLLATE[ =]+(\w+)|collation_connection\s*=\s*(\w+)", re.I)
SAID = re.compile(  # texts, names and comments
    rb"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`[^`]*`|(?:^|(?<=\s))(?:--\s|#)[^\n]*|/\*(?![!M]).*?\*/""",
    re.S | re.M,
)
CHARSET = re.compile(rb"(?:CHARACTER SET|CHARSET)[ =]+(\w+)", re.I)
# Where a definition begins, not wherever the word is: a row or a routine's text may hold it, too.
DEFINER = re.compile(
    rb"^(\s*(?:/\*!\d+\s+)?(?:CREATE\s*(?:OR REPLACE\s+)?(?:\*/\s*)?)?(?:/\*!\d+\s+)?(?:ALGORITHM\s*=\s*\w+\s+)?)"
    rb"DEFINER\s*=\s*(`(?:[^`]|``)*`(?:@`(?:[^`]|``)*`)?|'[^']*'(?:@'[^']*')?|\"[^\"]*\"(?:@\"[^\"]*\")?|[\w.]+@[\w.%]+|CURRENT_USER)",
    re.I,
)
VIEW_DEFINER = b"/*!50013 DEFINER="  # the second line of a view's definition
CODE = re.compile(
    rb"(?:CREATE|/\*!\d+ CREATE).*?\b(TRIGGER|FUNCTION|PROCEDURE|EVENT)\b(?: IF NOT EXISTS)?\*?/?\s*`((?:[^`]|``)+)`"
    rb"|/\*!50001 VIEW `((?:[^`]|``)+)` AS|CREATE .*\b(VIEW) `((?:[^`]|``)+)` AS",
    re.I,
)
FOREIGN = re.compile(
    rb"(GRANT|REVOKE|(?:CREATE|ALTER|DROP|RENAME) (?:USER|ROLE)|SET PASSWORD|SET (?:DEFAULT )?ROLE|FLUSH|"
    rb"CHANGE (?:MASTER|REPLICATION)|RESET|PURGE|INSTALL|UNINSTALL|SET\s+(?:@@)?GLOBAL\b|"
    rb"SET\s+@@(?:SESSION\.)?SQL_LOG_BIN|SET\s+@MYSQLDUMP_TEMP_LOG_BIN|SET\s+(?:SESSION\s+)?SQL_LOG_BIN)",
    re.I,
)
CLIENT = shutil.which("mariadb") or "mysql"
ONLY_MARIADB = re.compile(rb"\s*/\*M!.*\*/\s*;?\s*$")  # MySQL takes it for an empty statement, which is an error
SETTING = re.compile(rb"SET\s+(?:@OLD_SQL_MODE=@@SQL_MODE, )?(?:sql_mode|collation_connection)\s*=", re.I)
OTHER_MODES = re.compile(
    rb"\b(?:NO_AUTO_CREATE_USER|NO_FIELD_OPTIONS|NO_KEY_OPTIONS|NO_TABLE_OPTIONS|IGNORE_BAD_TABLE_OPTIONS),?", re.I
)
OTHER_COLLATIONS = re.compile(rb"\butf8mb4_uca1400_(?:nopad_)?(ai_ci|as_ci|as_cs)\b", re.I)
# A line of nothing else; one that servers look into is a statement, but for MariaDB's word to its client.
COMMENT = re.compile(rb"\s*(?:--(?:\s|$)|#|/\*(?:M?!999999\\-|(?!M?!))(?:[^*]|\*(?!/))*\*/\s*$)")
COMMENT_OPENS = re.compile(rb"\s*/\*(?!M?!)(?:[^*]|\*(?!/))*$")  # to end on a later line
COMMENT_START = re.compile(rb"/\*[!M]+\d*\s*")
ROWS = re.compile(rb"(?:INSERT|REPLACE)\s", re.I)
HISTORY = re.compile(rb"/\*M!\d+ SET .*\bsystem_versioning_insert_history=(1|@)")
LAST_YEAR = re.compile(rb"'(?:(2038)-01-1[89] \d\d:\d\d:07|(2106)-02-0[67] \d\d:\d\d:15)\.999999'")  # in any time zone
STOOD = re.compile(rb"(?:MASTER|SOURCE)_LOG_FILE='([^']+)', (?:MASTER|SOURCE)_LOG_POS=(\d+)")


def opened(path):
    """(stream of the plain text, process that makes it or None, what tells how far it has read)."""
    file = open(path, "rb")  # noqa: SIM115  read by whoever asked
    head = file.read(4)
    file.seek(0)
    command = {b"\x1f\x8b": ["gzip", "-dc"], b"\x28\xb5": ["zstd", "-dc"]}.get(head[:2])
    if command is None:
        return file, None, file
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return process.stdout, process, file


def ended_well(process):
    if process is not None and process.wait() != 0:
        raise SystemExit("The file is damaged: " + process.stderr.read().decode("utf-8", "replace").strip())


def for_mysql(line):
    """What a definition was made with, in MySQL's words: MariaDB's and older MySQL's are errors there."""
    if not SETTING.search(line[:LOOKED_AT]):
        return line
    return OTHER_COLLATIONS.sub(rb"utf8mb4_0900_\1", OTHER_MODES.sub(b"", line).replace(b",'", b"'"))


class Statements:
    """Says of each line what it is; knows the delimiter and the schema in use."""

    def __init__(self):
        self.delimiter = b";"
        self.schema = None
        self.foreign = False  # inside of a statement that is not for us, over several lines
        self.between = True  # a statement may begin here
        self.begins = True  # one may with this line
        self.comment = False  # inside of one between statements, over several lines
        self.rows = False  # inside of an INSERT: its values hold no line ends, so that they end a line with , or ;
        self.dropped = collections.Counter()

    def kind(self, line):
        """use | create database | foreign | system | rows | other; the schema in use is kept."""
        self.begins = self.between or line.startswith(VIEW_DEFINER)
        if self.rows:
            self.rows = not line.rstrip().endswith(b";")
            return self._of_schema("rows")
        if self.comment:
            self.comment = b"*/" not in line
            return self._of_schema("other")
        start = line[:LOOKED_AT].lstrip()
        plain = COMMENT_START.sub(b"", start, count=1) if start.startswith((b"/*!", b"/*M!")) else start
        if self.foreign:
            self.foreign = not line.rstrip().endswith(self.delimiter)
            return "foreign"
        if self.between and start.upper().startswith(b"DELIMITER "):
            self.delimiter = start.split()[1]
            return self._of_schema("other")
        if self.delimiter == b";" and self.between:
            found = USE.match(start)
            if found:
                self.schema = found[1].replace(b"``", b"`").decode(errors="replace")
                return "system" if self.schema in SYSTEM else "use"
            if CREATE_DATABASE.match(plain):
                return "create database"
            if ROWS.match(start):
                self.rows = not line.rstrip().endswith(b";")
                return self._of_schema("rows")
            told = FOREIGN.match(plain)
            if told:
                self.dropped[re.sub(rb"\s+", b" ", told[1]).decode().upper()] += 1
                self.foreign = not line.rstrip().endswith((b";", b"*/"))
                return "foreign"
        text = line.rstrip()
        self.comment = self.between and bool(COMMENT_OPENS.match(line))
        if text and not self.comment and not COMMENT.match(line):
            self.between = text.endswith(self.delimiter) or self._ends_before_a_comment(text)
        return self._of_schema("other")

    def _ends_before_a_comment(self, text):
        """Of code alone: a ; before a comment may be in the text of a column."""
        return self.delimiter != b";" and re.search(re.escape(self.delimiter) + rb"\s*" + COMMENT.pattern, text)

    def _of_schema(self, kind):
        return "system" if self.schema in SYSTEM else kind


def look(path):
    stream, process, _ = opened(path)
    statements = Statements()
    facts = {"schemas": [], "unnamed": False, "engines": {}, "definers": {}, "collations": [], "charsets": [],
             "without_primary_key": [], "floats": [], "code": {}, "dropped": {}, "system": [], "written_by": "",
             "server": "",
             "complete": False, "bytes": 0, "tables": 0, "databases": {}}  # fmt: skip
    collations, charsets, table, keyed, last = set(), set(), None, False, b""
    last_years, with_history, body = set(), False, []
    for line in stream:
        facts["bytes"] += len(line)
        if line.startswith(b"-- "):
            text = line[3:].strip().decode("utf-8", "replace")
            if " dump " in text.lower() and not facts["written_by"]:
                facts["written_by"] = text
            if text.startswith("Server version"):
                facts["server"] = text.split(None, 2)[2]
        if line.strip():
            last = line
        kind = statements.kind(line)
        if kind == "system" and statements.schema not in facts["system"]:
            facts["system"].append(statements.schema)
        if kind == "create database":
            name, more = CREATE_DATABASE.search(line).groups()
            collation = COLLATE.search(more)
            name = name.decode(errors="replace")
            facts["databases"][name] = " ".join(
                f"{word} {found[1].decode()}"
                for word, found in (("CHARACTER SET", CHARSET.search(more)), ("COLLATE", collation))
                if found and found[1]
            )
            if collation and collation[1] and name not in SYSTEM:
                collations.add(collation[1].decode())
        if kind == "use" and statements.schema not in facts["schemas"]:
            facts["schemas"].append(statements.schema)
        if kind == "rows" and with_history:
            last_years |= {(one or two).decode() for one, two in LAST_YEAR.findall(line)}
        if kind != "other":
            continue
        history = HISTORY.match(line)
        if history:
            with_history = history[1] == b"1"
        if CLIENT == "mysql":
            line = for_mysql(line)
        where = f"{statements.schema}." if statements.schema else ""
        found = CREATE_TABLE.match(line)
        if found:
            facts["unnamed"] |= statements.schema is None
            table, keyed = where + found[1].decode(errors="replace"), False
        elif table:
            keyed = keyed or b"PRIMARY KEY" in line
            single = FLOAT.match(line)
            if single:
                facts["floats"].append(f"{table}.{single[1].decode(errors='replace')}")
            engine = ENGINE.match(line)
            if engine or line.startswith(b")"):
                facts["tables"] += 1
                facts["engines"].setdefault(engine[1].decode() if engine else "default", []).append(table)
                if not keyed:
                    facts["without_primary_key"].append(table)
                table = None
        begun = line[:LOOKED_AT]
        if statements.delimiter != b";":
            body.append(line)
            said = b""
        else:
            said = SAID.sub(b"", b"".join((*body, line if table else begun)))
            body = []
        collations |= {(one or two).decode() for one, two in COLLATE.findall(said)}
        charsets |= {each.decode() for each in CHARSET.findall(said)}
        definer = DEFINER.match(begun) if statements.begins else None
        if definer:
            account = definer[2].decode(errors="replace")
            facts["definers"][account] = facts["definers"].get(account, 0) + 1
        code = CODE.search(begun)
        if code:
            name = next(filter(None, (code[2], code[3], code[5])))
            facts["code"].setdefault((code[1] or b"VIEW").decode().upper(), []).append(
                where + name.decode(errors="replace")
            )
    ended_well(process)
    facts["collations"], facts["charsets"] = sorted(collations), sorted(charsets)
    facts["last_years"] = sorted(last_years)  # in which present rows end, where the dump has their history
    facts["dropped"] = dict(statements.dropped)
    facts["complete"] = last.startswith(b"-- Dump completed") or not facts["written_by"]
    return facts


def for_us(stream, definer, rename, stood):
    """The lines to load. `stood` gets where the source's binary log stood, when the dump says so."""
    statements = Statements()
    for line in for_schema(rename.encode(), stream):
        if not stood and line.startswith((b"-- CHANGE ", b"CHANGE ")):
            found = STOOD.search(line)
            if found:
                stood[:] = [found[1].decode(), int(found[2])]
        kind = statements.kind(line)
        if kind in ("system", "foreign", "create database"):
            continue
        if kind == "other" and CLIENT == "mysql":
            if ONLY_MARIADB.match(line):
                continue
            line = for_mysql(line)
        if kind == "use" and rename:
            line = b"USE `" + rename.encode() + b"`;\n"
        if kind == "other" and statements.begins and b"DEFINER" in line[:LOOKED_AT]:
            line = DEFINER.sub(lambda found: found[1] + b"DEFINER=" + definer, line, count=1)
        yield line


def load(path, definer, settings, rename):
    """Into the server; what went wrong ends this program with status 1."""
    stream, process, file = opened(path) if path else (sys.stdin.buffer, None, None)
    total = os.path.getsize(path) if path else 0
    command = [CLIENT, f"--defaults-extra-file={settings}", "--binary-mode", "--comments", "--max-allowed-packet=1G"]
    client = subprocess.Popen(command + ([rename] if rename else []), stdin=subprocess.PIPE)
    began = said = time.monotonic()
    done, stood = 0, []
    try:
        for line in for_us(stream, definer.encode(), rename, stood):
            client.stdin.write(line)
            done += len(line)
            if time.monotonic() - said >= 2:
                said = time.monotonic()
                rate = done / (said - began) / 1e6
                part = f"{100 * os.lseek(file.fileno(), 0, os.SEEK_CUR) / total:.0f} %, " if total else ""
                print(f"PROGRESS {part}{done / 1e6:.0f} MB, {rate:.1f} MB/s", flush=True)
        ended_well(process)
        client.stdin.close()
    except BrokenPipeError:
        pass
    except BaseException:
        client.kill()
        raise
    with contextlib.suppress(BrokenPipeError):
        client.stdin.close()
    if client.wait() != 0:
        raise SystemExit("The server refused a statement of the dump: see above.")
    print(f"Loaded {done / 1e6:.1f} MB in {time.monotonic() - began:.1f} s", flush=True)
    if stood:
        print("STOOD", json.dumps(stood), flush=True)


def fetch(sha256, path):
    with open("/etc/relaunch/agent.json") as file:
        config = json.load(file)
    with open("/var/lib/relaunch/agent/credential.json") as file:
        login = json.load(file)
    word = base64.b64encode(f"{login['agent']}:{login['secret']}".encode()).decode()
    url = f"{config['controller_url']}/api/v1/agent/blobs/{sha256}"
    tls = ssl.create_default_context(cafile=config["ca_file"])
    digest, done, said = hashlib.sha256(), 0, time.monotonic()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {word}"})
    with urllib.request.urlopen(request, context=tls, timeout=60) as answer, open(path + ".part", "wb") as file:
        for piece in iter(lambda: answer.read(1 << 20), b""):
            file.write(piece)
            digest.update(piece)
            done += len(piece)
            if time.monotonic() - said >= 2:
                said = time.monotonic()
                print(f"PROGRESS fetched {done / 1e6:.0f} MB", flush=True)
    if digest.hexdigest() != sha256:
        raise SystemExit("The dump arrived damaged.")
    os.rename(path + ".part", path)


if __name__ == "__main__":
    what, given = sys.argv[1], sys.argv[2:]
    if what == "fetch":
        fetch(*given)
    elif what == "look":
        print(json.dumps(look(given[0])))
    elif what == "copy":
        load("", given[0], given[1], "")
    else:
        load(given[0], given[1], given[2], given[3] if len(given) > 3 else "")
