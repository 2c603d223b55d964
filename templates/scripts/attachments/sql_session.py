#!/usr/bin/env python3
# Written by relaunch: an attachment of scripts for database servers. Change it there.
"""One session with MariaDB or MySQL through its own command line client, kept open."""

import os
import shutil
import subprocess

END = "#relaunch-end#"
LOST = (1053, 1927, 2006, 2013, 2055, 4031)  # shut down, killed, gone: the session is no more
IS_MARIADB = shutil.which("mariadb") is not None  # what this server's client, and so its database, is


class SqlError(Exception):
    """`number` is the server's, 0 when the client itself failed."""

    def __init__(self, text):
        super().__init__(text)
        words = text.split()
        self.number = int(words[1]) if len(words) > 1 and words[0] == "ERROR" and words[1].isdigit() else 0


class Session:
    def __init__(self, *options):
        how = ("--no-auto-rehash", "-N", "-B", "--unbuffered", "--force", "--default-character-set=utf8mb4")
        self._client = subprocess.Popen(
            ["mariadb" if IS_MARIADB else "mysql", *options, *how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def rows(self, statement):
        """Lists of texts, as the client prints them; SqlError when the server, or its absence, says no."""
        try:
            self._client.stdin.write(f"{statement};\nSELECT '{END}';\n")
            self._client.stdin.flush()
        except OSError:
            raise SqlError(f"the session has ended: {self._rest()}") from None
        found, error = [], ""
        for line in self._client.stdout:
            line = line.rstrip("\n")
            if line == END:
                if error:
                    raise SqlError(error)
                return found
            if line.startswith("ERROR "):
                error = error or line
                if SqlError(line).number in LOST:  # then the end is never told
                    raise SqlError(error)
            else:
                found.append(line.split("\t"))
        raise SqlError(error or f"the session has ended: {found[-1:]}")

    def value(self, statement):
        """The first row's only value; None when there is no row."""
        found = self.rows(statement)
        return found[0][0] if found else None

    def position(self):
        """All that the server has executed, as others can be told to wait for it."""
        if IS_MARIADB:
            return self.value("SELECT @@gtid_binlog_pos")
        return self.value("SELECT REPLACE(@@global.gtid_executed, '\\n', '')")

    def has_come_to(self, position, seconds):
        """Whether it has executed up to there, after waiting so long for it at most."""
        wait = "MASTER_GTID_WAIT" if IS_MARIADB else "WAIT_FOR_EXECUTED_GTID_SET"
        return self.value(f"SELECT {wait}('{position}', {seconds})") == "0"

    def close(self):
        self._client.kill()
        self._client.wait()

    def _rest(self):
        return self._client.stdout.read().strip()


def checked_tls():
    """Options of a client that logs in at another server of ours: both show a certificate of our CA."""
    ours = {"ssl_ca": "/etc/relaunch/tls/ca.crt"}
    if IS_MARIADB:
        return {**ours, "ssl_verify_server_cert": "ON"}
    mine = {"ssl_cert": "/etc/relaunch/tls/server.crt", "ssl_key": "/etc/relaunch/tls/server.key"}
    return {**ours, **mine, "ssl_mode": "VERIFY_IDENTITY"}


def options_file(path, **options):
    """Write a client's options where only we can read them; its path as a client wants it."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("[client]\n")
        for name, value in options.items():
            text = str(value).replace("\\", "\\\\").replace('"', '\\"')
            file.write(f'{name.replace("_", "-")} = "{text}"\n')
    return f"--defaults-extra-file={path}"
