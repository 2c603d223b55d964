from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relaunch.errors import BadInput, NotFound, NotYetKnown
from relaunch.servers.deployments import DeploymentSpec, ServerSpec, SiteSpec
from relaunch.servers.inputs import (
    Facts,
    ResolvedInputs,
    credentials_needed,
    resolve_inputs,
    secret_inputs,
    unknown_inputs,
    values_for_script,
)
from relaunch.servers.scripts import InputDeclaration, Script
from relaunch.servers.templates import ServerTemplate
from relaunch.servers.values import Text

WEB = ServerSpec(name="web", template="t")
DEPLOYMENT = DeploymentSpec(name="shop", servers=(WEB, ServerSpec(name="db1", template="t")))


class Credentials:
    def __init__(self, *names: str) -> None:
        self.names = names

    def has_credential(self, name: str) -> bool:
        return name in self.names


def script(name: str, *inputs: InputDeclaration) -> Script:
    return Script(path=Path(f"/t/{name}.sh"), name=name, inputs=inputs)


def declared(name: str, default: str | None = None, *, line: int = 5, **more: object) -> InputDeclaration:
    return InputDeclaration(name=name, line=line, default=default, **more)  # type: ignore[arg-type]


def template(
    *boot: Script, operational: tuple[Script, ...] = (), inputs: dict[str, str] | None = None
) -> ServerTemplate:
    return ServerTemplate(
        name="t",
        path=Path("/t/t.yml"),
        boot=boot,
        operational=operational,
        inputs=inputs or {},
        input_lines=dict.fromkeys(inputs or {}, 3),
    )


def resolve(
    of: ServerTemplate,
    *,
    deployment: DeploymentSpec = DEPLOYMENT,
    server: ServerSpec = WEB,
    given: dict[str, str] | None = None,
    credentials: Credentials | None = None,
) -> ResolvedInputs:
    return resolve_inputs(of, deployment, server, given or {}, credentials or Credentials())


def test_the_highest_rank_decides_and_says_so():
    boot = script("boot", declared("PORT", "text:1"))
    ranks = []
    for rank in range(5):
        found = resolve(
            template(boot, inputs={"PORT": "text:2"} if rank >= 1 else {}),
            deployment=replace(DEPLOYMENT, inputs={"PORT": "text:3"} if rank >= 2 else {}),
            server=replace(WEB, inputs={"PORT": "text:4"} if rank >= 3 else {}),
            given={"PORT": "text:5"} if rank >= 4 else {},
        )
        port = found.get("PORT")
        assert port is not None and found.problems == ()
        ranks.append((port.value, port.shown, port.level, port.source))

    assert ranks == [
        (Text("1"), "text:1", "script", "/t/boot.sh:5"),
        (Text("2"), "text:2", "template", "/t/t.yml:3"),
        (Text("3"), "text:3", "deployment", "deployment shop"),
        (Text("4"), "text:4", "server", "server shop/web"),
        (Text("5"), "text:5", "launch", "launch"),
    ]


def test_the_app_follows_from_the_sites_source_unless_the_file_says_otherwise():
    sited = replace(DEPLOYMENT, sites=(SiteSpec(name="a.test", canonical="www.a.test", app="rack"),))
    of = template(script("boot", declared("APP")), inputs={"APP": "text:redmine"})

    derived = resolve(of, deployment=sited).get("APP")
    overruled = resolve(of, deployment=replace(sited, inputs={"APP": "text:other"})).get("APP")

    assert derived is not None and overruled is not None
    assert (derived.shown, derived.level, derived.source) == ("text:rack", "deployment", "site a.test")
    assert (overruled.shown, overruled.source) == ("text:other", "deployment shop")


def test_all_problems_are_told_at_once():
    boot = script(
        "boot",
        declared("NEEDED", required=True),
        declared("IGNORED", "ignore", required=True),
        declared("KIND", "text:c", possible_values=("text:a", "text:b")),
        declared("LIST", "text:a", is_array=True),
        declared("ONE", 'array:["text:a"]'),
        declared("ODD", "odd:x"),
        declared("SECRET", "cred:PASSWORD"),
        declared("MASTER", "env:db2:PRIVATE_IP"),
        declared("TWICE", "text:1"),
    )
    other = script("other", declared("TWICE", "text:2", line=9), declared("NEEDED", required=True))

    problems = resolve(template(boot, other), given={"NEDED": "text:x"}).problems

    assert problems == (
        "server shop/web: no script of template t has an input NEDED; did you mean NEEDED?",
        "server shop/web: input NEEDED has no value; boot, other need it",
        "server shop/web: input IGNORED is required but set to ignore; boot needs it",
        "server shop/web: input KIND cannot be text:c (/t/boot.sh:5); boot allows text:a, text:b",
        'server shop/web: input LIST has the wrong form: text:a (/t/boot.sh:5); boot wants array:["text:…"]',
        'server shop/web: input ONE has the wrong form: array:["text:a"] (/t/boot.sh:5);'
        " boot wants one value, no array",
        "server shop/web: input ODD has the wrong form: Invalid input value: odd:x: no type 'odd'"
        " (known here: text, blank, ignore, env, cred, key, array), from /t/boot.sh:5",
        "server shop/web: input SECRET needs credential PASSWORD (/t/boot.sh:5), which does not exist;"
        " run `relaunch credential set PASSWORD` or write `PASSWORD: generate` under credentials",
        "server shop/web: input MASTER refers to server db2 (/t/boot.sh:5), which does not exist; did you mean db1?",
        "server shop/web: input TWICE is ambiguous: text:1 (/t/boot.sh:5), text:2 (/t/other.sh:9);"
        " set it in the template, the deployment or the server",
    )


def test_what_only_operational_scripts_want_may_wait():
    wants = script("wants", declared("NEEDED", required=True), declared("TWICE", "text:1"), declared("S", "cred:X"))
    other = script("other", declared("TWICE", "text:2"))

    found = resolve(template(operational=(wants, other)))

    assert found.problems == ()
    assert values_for_script(other, found, Facts(), {}) == {"TWICE": "2"}
    with pytest.raises(BadInput, match="script wants: input NEEDED has no value"):
        values_for_script(wants, found, Facts(), {})


def test_an_unusable_value_of_an_operational_script_is_refused_when_it_is_run():
    wants = script("wants", declared("KIND", possible_values=("text:a",)))

    found = resolve(template(operational=(wants,)), server=replace(WEB, inputs={"KIND": "text:z"}))

    assert found.problems == ()
    with pytest.raises(BadInput, match=r"input KIND cannot be text:z \(server shop/web\); wants allows text:a"):
        values_for_script(wants, found, Facts(), {})


def test_defaults_that_differ_do_not_matter_once_something_above_decides():
    of = template(script("a", declared("X", "text:1")), script("b", declared("X", "text:2")), inputs={"X": "text:3"})

    assert resolve(of).problems == ()


def test_a_decommission_script_is_as_urgent_as_a_boot_script():
    of = replace(template(), decommission=(script("bye", declared("NEEDED", required=True)),))

    assert resolve(of).problems == ("server shop/web: input NEEDED has no value; bye needs it",)


@pytest.mark.parametrize("known", [Credentials("PASSWORD"), Credentials()])
def test_a_credential_that_exists_or_will_be_generated_is_no_problem(known):
    deployment = DEPLOYMENT if known.names else replace(DEPLOYMENT, generate_credentials=("PASSWORD",))

    found = resolve(
        template(script("boot", declared("SECRET", "cred:PASSWORD"))), deployment=deployment, credentials=known
    )

    assert found.problems == ()
    assert [one.is_secret for one in found.inputs] == [True]


def test_items_of_an_array_may_each_be_among_the_possible_values():
    boot = script("boot", declared("L", is_array=True, possible_values=("text:a", "text:b")))

    assert resolve(template(boot), given={"L": 'array:["text:b","text:a"]'}).problems == ()
    assert len(resolve(template(boot), given={"L": 'array:["text:b","text:c"]'}).problems) == 1


def test_a_blank_or_ignored_array_has_the_right_form():
    boot = script("boot", declared("L", is_array=True))

    assert resolve(template(boot), given={"L": "blank"}).problems == ()
    assert resolve(template(boot), given={"L": "ignore"}).problems == ()


def test_a_script_gets_the_inputs_it_declares_and_no_others():
    boot = script(
        "boot",
        declared("TEXT", "text:a b"),
        declared("EMPTY", "blank"),
        declared("GONE", "ignore"),
        declared("NOTHING"),
        declared("MINE", "env:PRIVATE_IP"),
        declared("THEIRS", "env:db1:PRIVATE_IP"),
        declared("SECRET", "cred:PASSWORD"),
        declared("BUCKET", "cred:BACKUP_STORE_BUCKET"),
        declared("KEY", "key:deploy"),
        declared("LIST", 'array:["text:a","env:RS_SERVER_NAME","cred:PASSWORD"]', is_array=True),
    )
    other = script("other", declared("ELSE", "text:x"))
    found = resolve(template(boot, other), credentials=Credentials("PASSWORD", "BACKUP_STORE_BUCKET", "deploy"))
    facts = Facts(own={"PRIVATE_IP": "10.0.0.1", "RS_SERVER_NAME": "web"}, others={"db1": {"PRIVATE_IP": "10.0.0.2"}})
    known = {"PASSWORD": "s3cret", "BACKUP_STORE_BUCKET": "backups", "deploy": "k"}

    assert found.problems == ()
    assert values_for_script(boot, found, facts, known) == {
        "TEXT": "a b",
        "EMPTY": "",
        "MINE": "10.0.0.1",
        "THEIRS": "10.0.0.2",
        "SECRET": "s3cret",
        "BUCKET": "backups",
        "KEY": "k",
        "LIST": "a,web,s3cret",
    }
    assert secret_inputs(boot, found) == ("SECRET", "KEY", "LIST")
    assert credentials_needed([boot, other], found) == ("PASSWORD", "BACKUP_STORE_BUCKET", "deploy")


def test_another_servers_fact_may_not_be_known_yet():
    boot = script("boot", declared("THEIRS", "env:db1:PRIVATE_IP"))
    found = resolve(template(boot))

    with pytest.raises(NotYetKnown) as raised:
        values_for_script(boot, found, Facts(others={"db1": {"PRIVATE_IP": ""}}), {})

    assert (raised.value.server, raised.value.name, raised.value.retry) == ("db1", "PRIVATE_IP", True)


def test_a_credential_that_was_removed_since_is_told():
    boot = script("boot", declared("SECRET", "cred:PASSWORD"))

    with pytest.raises(NotFound, match="there is no credential PASSWORD"):
        values_for_script(boot, resolve(template(boot), credentials=Credentials("PASSWORD")), Facts(), {})


def test_an_input_of_the_deployment_that_no_template_has_is_told_with_the_nearest():
    deployment = replace(DEPLOYMENT, inputs={"PROT": "text:1", "PORT": "text:1"})

    assert unknown_inputs(deployment, {"t": template(script("boot", declared("PORT")))}) == (
        "deployment shop: no script of its templates has an input PROT; did you mean PORT?",
    )
