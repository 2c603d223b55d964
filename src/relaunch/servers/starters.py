"""Deployment files to start from: what `relaunch init` writes and examples/ holds."""

from __future__ import annotations

import re

from relaunch.errors import BadInput
from relaunch.servers.strict_yaml import did_you_mean

SOURCES = {"redmine": "{package: redmine}", "rack": "{app: rack}"}

_SERVERS = {
    "redundant": """\
servers:                                 # each server is named by you; its template says what it becomes
  front1: {template: front-end, zone: a} # two front ends in two zones: one may die
  front2: {template: front-end, zone: b}
  db1: {template: mysql, zone: a}
  db2: {template: mysql, zone: b}
#  db2:                                  # the long form of the line above
#    template: mysql
#    zone: b
#    memory: 1G                          # else what the template says
#    inputs: {DB_USER: text:app}         # for this server alone

database:                                # the deployment's one group: a primary and its replicas
  primary: db1
  replicas: [db2]
  durability: available                  # strict: rather stop writing than have a write on one server only
""",
    "all-in-one": """\
servers:                                 # each server is named by you; its template says what it becomes
  web: {template: all-in-one, zone: a}
#  web:                                  # the long form of the line above
#    template: all-in-one
#    zone: a
#    memory: 2G                          # else what the template says
#    inputs: {DB_USER: text:app}         # for this server alone

database:                                # where the sites' data is
  primary: web
""",
}
_FIRST_LINES = {
    "redundant": "two front ends that run the app, a database and its replica: each server may die.",
    "all-in-one": "everything on one server: quick to start, nothing redundant.",
}
ARCHITECTURES = tuple(_SERVERS)


def starter_file(architecture: str, name: str, app: str) -> str:
    """A complete, commented deployment file; BadInput for an architecture, name or app that cannot be."""
    if architecture not in _SERVERS:
        raise BadInput(f"there is no architecture {architecture!r}", hint=did_you_mean(architecture, ARCHITECTURES))
    if app not in SOURCES:
        raise BadInput(f"there is no app {app!r} to start from", hint=did_you_mean(app, SOURCES))
    if len(name) > 40 or not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name):
        raise BadInput(f"{name!r} cannot be a deployment's name", hint="small letters, digits and inner hyphens")
    domain = f"{app}.test"
    return f"""\
# Deployment {name}: {_FIRST_LINES[architecture]}
# `relaunch plan FILE` shows what would happen, `relaunch apply FILE` makes it so, as often as you like.

deployment: {name}
cloud: local                             # where its servers come from

{_SERVERS[architecture]}
sites:
{_noted(f"  {domain}:", f"its domain; {domain} leads to www.{domain}")}
    source: {SOURCES[app]}
    runtime: rails
{_noted(f"    database: {app}", "its logical database in the group")}
{_noted("    check_path: /", "answers 200 when an app process is well")}
{_noted(f"#    canonical: {domain}", "the host every other name leads to, else www")}
{_noted(f"#    aliases: [{app}.example.test]", "more names of the site")}

inputs:                                  # for all servers; `relaunch template show NAME` lists what there is
#  PUMA_THREADS: text:8                  # a value is written TYPE:VALUE, TYPE being text, cred, env, array…

credentials:                             # made with a random value when they do not exist yet
  DB_PASSWORD: generate
  REPLICATION_PASSWORD: generate
  SECRET_KEY_BASE: generate
"""


def _noted(line: str, note: str) -> str:
    return f"{line:<40} # {note}"
