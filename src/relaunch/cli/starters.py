"""Deployment files to start from: what `init` writes and `demo` applies."""

from __future__ import annotations

from relaunch.errors import BadInput

ARCHITECTURES = ("redundant", "all-in-one")
APPS = ("redmine", "rack")

HEAD = """\
# A deployment: servers, database and sites that belong together.
# What it would do: relaunch plan FILE      Make it so: relaunch apply FILE
deployment: {name}
cloud: local
"""

REDUNDANT = """
servers:
  front1: {{template: front-end, zone: a}}    # Apache, HAProxy and the app; each serves when the other is gone
  front2: {{template: front-end, zone: b}}
  db1:    {{template: mysql, zone: a}}        # MariaDB: the primary takes the writes …
  db2:    {{template: mysql, zone: b}}        # … and the replica holds a copy of each

database: {{primary: db1, replicas: [db2], durability: available}}
"""

ALL_IN_ONE = """
servers:
  box1: {{template: all-in-one, zone: a}}     # Apache, HAProxy, the app and MariaDB on one server

database: {{primary: box1}}
"""

SITES = """
sites:
  {app}.test:                   # what is asked for {app}.test is redirected to www.{app}.test
    canonical: www.{app}.test
    source: {source}
    runtime: {runtime}
    database: {app}

inputs:
  APP: text:{app}

credentials:                   # made with random values when they do not exist yet; never shown
  DB_PASSWORD: generate
  REPLICATION_PASSWORD: generate
  SECRET_KEY_BASE: generate
"""
SOURCES = {"redmine": ("{package: redmine}", "rails"), "rack": ("{app: rack}", "rails")}


def starter(architecture: str, *, name: str, app: str) -> str:
    """The file's text; BadInput names what there is."""
    if architecture not in ARCHITECTURES:
        raise BadInput(f"there is no architecture {architecture}", hint=f"one of {', '.join(ARCHITECTURES)}")
    if app not in APPS:
        raise BadInput(f"there is no app {app}", hint=f"one of {', '.join(APPS)}")
    body = REDUNDANT if architecture == "redundant" else ALL_IN_ONE
    source, runtime = SOURCES[app]
    return (HEAD + body + SITES).format(name=name, app=app, source=source, runtime=runtime)


def complete(incomplete: str) -> list[str]:
    return [name for name in ARCHITECTURES if name.startswith(incomplete)]
