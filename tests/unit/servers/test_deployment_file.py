from __future__ import annotations

from pathlib import Path

import pytest

from relaunch.errors import BadInput, FormatError
from relaunch.servers.deployments import (
    DatabaseSpec,
    DeploymentSpec,
    ServerSpec,
    SiteSpec,
    read_deployment,
    starter_file,
)
from relaunch.servers.inputs import resolve_inputs, unknown_inputs
from relaunch.servers.templates import find_template

ROOT = Path(__file__).parents[3]
HEAD = "deployment: shop\nservers:\n  web: {template: base}\n  db1: {template: mysql}\n"


def test_a_whole_file_is_read():
    text = """\
deployment: shop
cloud: local
servers:
  front1: {template: front-end, zone: b, memory: 1G, inputs: {PORT: text:80}}
  db1: {template: mysql}
  db2: {template: mysql, zone: b}
database: {primary: db1, replicas: [db2], durability: strict}
sites:
  shop.test:
    aliases: [www.shop.test, shop.example.com]
    source: {package: redmine}
    database: shop
    check_path: /up?x=1
  blog.test:
    canonical: blog.test
    aliases: [www.blog.test]
    source: {app: rack}
    runtime: proxy
inputs: {ADMIN: "text:me"}
credentials: {DB_PASSWORD: generate}
"""

    assert read_deployment(text) == DeploymentSpec(
        name="shop",
        cloud="local",
        servers=(
            ServerSpec(name="front1", template="front-end", zone="b", memory_bytes=1024**3, inputs={"PORT": "text:80"}),
            ServerSpec(name="db1", template="mysql"),
            ServerSpec(name="db2", template="mysql", zone="b"),
        ),
        database=DatabaseSpec(primary="db1", replicas=("db2",), durability="strict"),
        sites=(
            SiteSpec(
                name="shop.test",
                canonical="www.shop.test",
                aliases=("shop.test", "shop.example.com"),
                app="redmine",
                database="shop",
                check_path="/up?x=1",
            ),
            SiteSpec(name="blog.test", canonical="blog.test", aliases=("www.blog.test",), app="rack", runtime="proxy"),
        ),
        inputs={"ADMIN": "text:me"},
        generate_credentials=("DB_PASSWORD",),
        source=text,
    )


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("", 1, "`deployment: NAME` is missing", ""),
        ("servers: {a: {template: b}}", 1, "`deployment: NAME` is missing", ""),
        ("deployment: shop", 1, "a deployment needs at least one server", ""),
        ("deployment: shop\nservers: {}", 2, "a deployment needs at least one server", ""),
        ("deployment: Shop\nservers: {a: {template: b}}", 1, "'Shop' cannot be a name", "small letters"),
        (f"deployment: {'a' * 41}\nservers: {{a: {{template: b}}}}", 1, "cannot be a name", "at most 40"),
        ("deployment: shop\nservers:\n  a_b: {template: b}", 3, "'a_b' cannot be a name", ""),
        ("deployment: shop\nservers:\n  -a: {template: b}", 3, "'-a' cannot be a name", ""),
        ("deployment: shop\nservers:\n  a: {zone: b}", 3, "server a: template is missing", ""),
        ("deployment: shop\nservers:\n  a: {template: ../x}", 3, "'../x' cannot be a template's name", "not a path"),
        ("deployment: shop\nservers:\n  a: {template: b, zone: A}", 3, "zone: 'A' cannot be a name", ""),
        ("deployment: shop\nservers:\n  a: {template: b, zon: a}", 3, "unknown key 'zon'", "did you mean zone?"),
        ("deployment: shop\nservers:\n  a: {template: b, memory: -1}", 3, "'-1' is no size", "512M"),
        ("deployment: shop\nservers:\n  a: {template: b, volume: big}", 3, "'big' is no size", "512M"),
        ("deployment: shop\nservers:\n  a: {template: b, memory: 512}", 3, "memory: 512 is 512 bytes", "a unit, 512M"),
        ("deployment: shop\nservers:\n  a: {template: b, volume: 20K}", 3, "volume: 20K is 20480 bytes", "a unit"),
        (
            "deployment: shop\nservers:\n  a: {template: b}\ndatabase: {primary: a, backups: {method: snapshot}}",
            4, "server a has none", "volume: 20G",
        ),
        ("deployment: shop\nservers:\n  a: {template: b}\ndatabase: {primary: a, backups: {method: magic}}",
         4, "magic", ""),
        ("deployment: shop\nservers:\n  a: {template: b}\n  a: {template: b}", 4, "servers: 'a' is there twice", ""),
        ("deployment: shop\nservers:\n  a: {template: b, inputs: {X: 1}}", 3, "Invalid input value: 1", "TYPE:VALUE"),
        (HEAD + "serves: {}", 5, "unknown key 'serves'", "did you mean servers?"),
        (HEAD + "deployment: again", 5, "'deployment' is there twice", "first in line 1"),
        (HEAD + "arrays: {app: {template: a}}", 5, "arrays are not supported in this version", "list each server"),
        (HEAD + "database: {replicas: [db1]}", 5, "database: primary is missing", ""),
        (HEAD + "database: {primary: db2}", 5, "there is no server 'db2'", "did you mean db1?"),
        (HEAD + "database:\n  primary: db1\n  replicas: [db3]", 7, "there is no server 'db3'", "did you mean db1?"),
        (HEAD + "database: {primary: db1, replicas: [db1]}", 5, "db1 is there twice", ""),
        (HEAD + "database: {primary: db1, durability: full}", 5, "durability must be available or strict", ""),
        (HEAD + "database: {primary: db1, failover: slow}", 5, "failover must be fast or normal or careful", ""),
        (HEAD + "database: {primary: db1, durability: strict}", 5, "strict needs a replica", ""),
        (HEAD + "database: {primary: db1, never_primary: [db1]}", 5, "never_primary: db1 is no replica", ""),
        (HEAD + "database: {primary: db1, read_lag: soon}", 5, "read_lag: 'soon' is no duration", "90s"),
        (HEAD + "database: {primary: db1, read_lag: 1s}", 5, "read_lag must be 5 s or more", ""),
        (HEAD + "database: {primary: db1, backups: {full: 0}}", 5, "full must be 15 s or more", "`full: never` makes"),
        (HEAD + "database: {primary: db1, backups: {prove: 900ms}}", 5, "prove must be 15 s or more", ""),
        (HEAD + "sites:\n  shop: {}", 6, "'shop' is no domain name", ""),
        (HEAD + "sites:\n  Shop.test: {}", 6, "'Shop.test' is no domain name", ""),
        (HEAD + "sites:\n  a..test: {}", 6, "'a..test' is no domain name", ""),
        (HEAD + "sites:\n  10.0.0.1: {}", 6, "'10.0.0.1' is no domain name", ""),
        (HEAD + "sites:\n  a.test: {aliases: [b_c.test]}", 6, "'b_c.test' is no domain name", ""),
        (HEAD + "sites:\n  a.test: {canonical: w.a.test}", 6, "'w.a.test' is neither its name nor", "mean www.a.test?"),
        (HEAD + "sites:\n  a.test: {}\n  b.test: {aliases: [a.test]}", 7, "a.test belongs to site a.test already", ""),
        (HEAD + "sites:\n  a.test: {source: {git: x}}", 6, "git is not supported in this version", "{package: NAME}"),
        (HEAD + "sites:\n  a.test: {source: {tarball: x}}", 6, "tarball is not supported in this version", ""),
        (HEAD + "sites:\n  a.test: {source: {svn: x}}", 6, "svn is not supported in this version", ""),
        (HEAD + "sites:\n  a.test: {source: {app: a, package: b}}", 6, "source must have one key", ""),
        (HEAD + "sites:\n  a.test: {source: {}}", 6, "source must have one key", ""),
        (HEAD + "sites:\n  a.test: {source: {aps: a}}", 6, "unknown key 'aps'", "did you mean app?"),
        (HEAD + "sites:\n  a.test: {runtime: ruby}", 6, "runtime must be rails or", ""),
        (HEAD + "sites:\n  a.test: {database: shop}", 6, "the deployment has no database group", "primary: SERVER"),
        (HEAD + "database: {primary: db1}\nsites: {a.test: {database: a-b}}", 6, "'a-b' cannot be a database's", ""),
        (HEAD + "database: {primary: db1}\nsites: {a.test: {database: mysql}}", 6, "mysql is the server's own or", ""),
        (HEAD + "database: {primary: db1}\nsites: {a.test: {database: my_ql}}", 6, "my_ql means mysql in", "another"),
        (HEAD + "database: {primary: db1}\nsites: {a.test: {database: relaunch_trial}}", 6, "server's own or ours", ""),
        (HEAD + "sites:\n  a.test: {check_path: up}", 6, "check_path must start with /", ""),
        (HEAD + "inputs: [X]", 5, "inputs must be a map, not a list", ""),
        (HEAD + "credentials: {A: hunter2}", 5, "the only thing that can stand here is `generate`", "credential set A"),
        (HEAD + "credentials: {'A B': generate}", 5, "credential 'A B': letters", ""),
        (HEAD + "cloud: [", 6, "not valid YAML", ""),
        (HEAD + "---\ndeployment: b", 6, "a second YAML document", ""),
        ("deployment: shop\x07", 1, "not allowed in YAML", ""),
    ],
)  # fmt: skip
def test_a_fault_names_line_and_remedy(text, line, message, hint):
    with pytest.raises(FormatError) as raised:
        read_deployment(text + "\n", file="shop.yml")

    assert raised.value.message.startswith(f"shop.yml:{line}: ")
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_a_replica_may_be_one_that_never_leads_and_reads_have_a_limit():
    servers = "deployment: shop\nservers: {db1: {template: mysql}, db2: {template: mysql}, db3: {template: mysql}}\n"
    head = servers + "database: {primary: db1, replicas: [db2, db3], durability: strict"
    database = read_deployment(head + ", never_primary: [db3], read_lag: 2m}\n").database

    assert database is not None and (database.never_primary, database.read_lag_seconds) == (("db3",), 120.0)
    with pytest.raises(FormatError, match="strict needs a replica that may become the primary"):
        read_deployment(head + ", never_primary: [db2, db3]}\n")


def test_a_map_merged_in_by_anchor_counts_and_is_checked():
    merged = read_deployment(
        "deployment: shop\nservers:\n  a: &like {template: base, zone: b}\n  b: {<<: *like, zone: c}\n"
    )

    assert merged.servers[1] == ServerSpec(name="b", template="base", zone="c")


@pytest.mark.parametrize(("architecture", "name"), [("redundant", "shop"), ("all-in-one", "small")])
def test_the_examples_are_the_starter_files(architecture, name):
    """Refresh: write what starter_file returns into the file."""
    assert (ROOT / f"examples/{architecture}.yml").read_text() == starter_file(architecture, name, "redmine")


@pytest.mark.parametrize("app", ["redmine", "rack"])
@pytest.mark.parametrize("architecture", ["redundant", "all-in-one"])
def test_a_starter_file_can_be_launched_with_our_templates(architecture, app):
    spec = read_deployment(starter_file(architecture, "shop", app))
    templates = {server.template: find_template(server.template, [ROOT / "templates"]) for server in spec.servers}

    class OnlyItsOwn:
        """What every controller makes at its first start: where backups go."""

        def has_credential(self, name: str) -> bool:
            return name.startswith("BACKUP_")

    resolved = [resolve_inputs(templates[s.template], spec, s, {}, OnlyItsOwn()) for s in spec.servers]

    assert [problem for one in resolved for problem in one.problems] == []
    assert unknown_inputs(spec, templates) == ()
    assert (spec.sites[0].app, spec.sites[0].name) == (app, f"{app}.test")
    apps = {found.shown for one in resolved if (found := one.get("APP"))}
    assert apps == {f"text:{app}"}


@pytest.mark.parametrize(
    ("architecture", "name", "app", "message", "hint"),
    [
        ("redundnat", "shop", "rack", "there is no architecture 'redundnat'", "did you mean redundant?"),
        ("redundant", "My Shop", "rack", "'My Shop' cannot be a deployment's name", "small letters"),
        ("redundant", "shop", "redmin", "there is no app 'redmin'", "did you mean redmine?"),
    ],
)
def test_what_cannot_be_started_from_is_told(architecture, name, app, message, hint):
    with pytest.raises(BadInput) as raised:
        starter_file(architecture, name, app)

    assert message in raised.value.message
    assert hint in raised.value.hint
