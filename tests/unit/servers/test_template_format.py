from __future__ import annotations

from pathlib import Path

import pytest

from relaunch.errors import BadInput, FormatError, NotFound
from relaunch.servers.alerts import AlertClause, parse_clause, threshold_fault
from relaunch.servers.checks import check_script, check_template
from relaunch.servers.multi_cloud_images import ImageSetting
from relaunch.servers.run_list import packages_of
from relaunch.servers.templates import Ingress, Offer, find_template, list_templates, read_template, template_hash

TEMPLATES = Path(__file__).parents[3] / "templates"
SCRIPT = "#!/bin/sh\n# ---\n# RightScript Name: {name}\n# Inputs: {inputs}\n# ...\n"


class Folder:
    """A folder of templates to write into."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def script(self, path: str, *, name: str = "A", inputs: str = "{}") -> Path:
        return self.file(path, SCRIPT.format(name=name, inputs=inputs), mode=0o755)

    def file(self, path: str, text: str, mode: int = 0o644) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def fault(path: Path) -> FormatError:
    with pytest.raises(FormatError) as raised:
        read_template(path)
    return raised.value


def test_a_template_is_read_with_the_file_of_ours_beside_it(folder):
    install, start = folder.script("scripts/install.sh", name="Install"), folder.script("web/start.sh", name="Start")
    path = folder.file(
        "web/web.yml",
        """\
Name: Web server
Description: Serves.
Inputs:
  PORT: text:80
RightScripts:
  Boot: [../scripts/install.sh, start.sh]
  Operational:
  - {Name: Install, Revision: 3, Publisher: Someone, Odd: ignored}
  Decommission:
""",
    )
    folder.file(
        "web/web.relaunch.yml",
        """\
image: bookworm
bake: [../scripts/install.sh]
ingress:
- {port: 80, source: any}
- {port: 53, protocol: udp, source: 10.0.0.0/8}
- {protocol: icmp, source: template:db}
offers:
- {role: app, port: 8000, check_path: /up}
memory: 512M
volume: /srv/volume
""",
    )

    template = read_template(path)

    assert (template.name, template.title, template.description) == ("web", "Web server", "Serves.")
    assert (template.inputs, template.input_lines) == ({"PORT": "text:80"}, {"PORT": 4})
    assert [script.path for script in template.boot] == [install, start]
    assert [script.path for script in template.operational] == [install]
    assert (template.decommission, template.image) == ((), "bookworm")
    assert [script.path for script in template.baked] == [install]
    assert [script.path for script in template.scripts] == [install, start]
    assert template.ingress == (
        Ingress(port=80, source="any"),
        Ingress(port=53, protocol="udp", source="10.0.0.0/8"),
        Ingress(port=0, protocol="icmp", source="template:db"),
    )
    assert template.offers == (Offer(role="app", port=8000, check_path="/up"),)
    assert template.memory_bytes == 512 * 1024**2
    assert template.volume == "/srv/volume"


def test_an_empty_file_is_a_template(folder):
    template = read_template(folder.file("empty.yml", ""))

    assert (template.name, template.boot, template.image, template.alerts) == ("empty", (), "trixie", ())


def test_all_missing_scripts_are_told_at_once(folder):
    path = folder.file("a.yml", "RightScripts:\n  Boot:\n  - one.sh\n  - {Name: Two}\n  Decommission: [../three.sh]\n")

    error = fault(path)

    assert str(error).startswith(
        f"{path}:3: 3 scripts are missing: one.sh (line 3), 'Two' (line 4), ../three.sh (line 5)"
    )


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("Name: a\nName: b\n", 2, "'Name' is there twice"),
        ("Scripts: {}\n", 1, "unknown key 'Scripts'"),
        ("RightScripts:\n  Boots: []\n", 2, "unknown key 'Boots'"),
        ("RightScripts: []\n", 1, "RightScripts must be a map, not a list"),
        ("RightScripts:\n  Boot: a.sh\n", 2, "Boot must be a list, not 'a.sh'"),
        ("RightScripts:\n  Boot:\n  - {Revision: 1}\n", 3, "a script is a path, or a map with Name"),
        ("Inputs:\n  A: text\n", 2, "Invalid input value: text"),
        ("Inputs:\n  A: [text:a]\n", 2, "A must be text, not a list"),
        ("Inputs:\n  A: text:a\n  A: text:b\n", 3, "'A' is there twice"),
        ("MultiCloudImages:\n- {}\n", 2, "an image needs Href, Settings, Publisher or Name"),
        ("MultiCloudImages:\n- {Description: x}\n", 2, "an image needs Href, Settings, Publisher or Name"),
        ("MultiCloudImages:\n- {Name: a, Odd: b}\n", 2, "unknown key 'Odd'"),
        ("MultiCloudImages:\n- {Name: a, Revision: new}\n", 2, "Revision must be a number, latest or head"),
        ("MultiCloudImages:\n- {Name: a, Settings: [{Clod: x}]}\n", 2, "unknown key 'Clod'"),
        ("MultiCloudImages: [gone.yml]\n", 1, "image file gone.yml cannot be read"),
        ("Alerts:\n- {Name: a}\n", 2, "an alert needs Name and Clause"),
        ("Alerts:\n- Name: a\n  Clause: If x\n", 3, "alert clause has 2 words"),
        ("Alerts: [gone.yml]\n", 1, "alerts file gone.yml cannot be read"),
        ("a: [", 1, "not valid YAML"),
        ("{}\n---\n{}\n", 3, "a second YAML document"),
    ],
)
def test_a_fault_in_the_template_names_file_and_line(folder, text, line, message):
    error = fault(folder.file("a/a.yml", text))

    assert (error.file.endswith("/a/a.yml"), error.line) == (True, line)
    assert message in error.message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("imag: x\n", 1, "unknown key 'imag'"),
        ("image: ''\n", 1, "image is empty"),
        ("bake: [other.sh]\n", 1, "bake: other.sh is not among the boot scripts"),
        ("bake: [boot.sh, ./boot.sh]\n", 1, "bake: ./boot.sh is there twice"),
        ("ingress:\n- {source: any}\n", 2, "ingress: port is missing"),
        ("ingress:\n- {port: 0}\n", 2, "port must be a whole number from 1 to 65535, not '0'"),
        ("ingress:\n- {port: 8O}\n", 2, "port must be a whole number from 1 to 65535, not '8O'"),
        ("ingress:\n- {port: 80, protocol: tpc}\n", 2, "protocol must be tcp or udp or icmp or all, not 'tpc'"),
        (
            "ingress:\n- {port: 80, source: anyone}\n",
            2,
            "source must be any, deployment, host, template:NAME or a CIDR",
        ),
        ("ingress:\n- {port: 80, source: 10.0.0.1/8}\n", 2, "not '10.0.0.1/8'"),
        ("ingress:\n- {port: 80, source: 'template:'}\n", 2, "not 'template:'"),
        ("offers:\n- {port: 80}\n", 2, "offers: role is missing"),
        ("offers:\n- {role: frontend}\n", 2, "role must be front-end or app or database, not 'frontend'"),
        ("offers:\n- {role: app, check_path: up}\n", 2, "check_path must start with /"),
        ("memory: lots\n", 1, "memory: 'lots' is no size"),
        ("volume: ../x\n", 1, "volume must be an absolute path"),
    ],
)
def test_a_fault_in_the_file_of_ours_names_file_and_line(folder, text, line, message):
    folder.script("a/boot.sh")
    path = folder.file("a/a.yml", "RightScripts: {Boot: [boot.sh]}\n")
    folder.file("a/a.relaunch.yml", text)

    error = fault(path)

    assert (error.file.endswith("/a/a.relaunch.yml"), error.line) == (True, line)
    assert message in error.message


def test_images_of_all_forms_are_kept(folder):
    folder.file(
        "a/image.yml", "Name: From file\nSettings:\n- {Cloud: EC2, Instance Type: m1, Image: ami, User Data: x}\n"
    )
    path = folder.file(
        "a/a.yml",
        "MultiCloudImages:\n- image.yml\n- {Href: /api/1}\n- {Name: N, Revision: 7, Publisher: P}\n- {Name: Plain}\n",
    )

    images = read_template(path).multi_cloud_images

    assert [(image.kind, image.name) for image in images] == [
        ("settings", "From file"),
        ("href", ""),
        ("publisher", "N"),
        ("name", "Plain"),
    ]
    assert images[0].settings == (ImageSetting(cloud="EC2", instance_type="m1", image="ami", user_data="x"),)
    assert images[2].revision == "7"


def test_alerts_of_files_stand_in_their_place_each_file_once(folder):
    clause = "If cpu-0/cpu-idle.value < 10 for 5 minutes Then escalate critical"
    folder.file("a/more.yml", f"Alerts:\n- {{Name: two, Clause: {clause}}}\n- more.yml\n")
    path = folder.file(
        "a/a.yml",
        f"Alerts:\n- {{Name: one, Clause: {clause}}}\n- more.yml\n"
        f"- {{Name: three, Description: d, Clause: {clause}}}\n- more.yml\n",
    )

    alerts = read_template(path).alerts

    assert [(alert.name, alert.description, alert.line) for alert in alerts] == [
        ("one", "", 2),
        ("two", "", 2),
        ("three", "d", 4),
    ]


def test_an_alerts_file_without_alerts_is_a_fault_of_that_file(folder):
    folder.file("a/none.yml", "Alerts: []\n")

    assert fault(folder.file("a/a.yml", "Alerts: [none.yml]\n")).file.endswith("/a/none.yml")


@pytest.mark.parametrize(
    "keywords", [("If", "for", "minutes", "Then", "Grow"), ("IF", "FOR", "Minutes,", "then", "grow")]
)
def test_a_clause_is_read_whatever_the_case_of_its_keywords(keywords):
    first, duration, minutes, then, action = keywords

    clause = parse_clause(f"{first} a/b.c.value >= NaN {duration} 3 {minutes} {then} {action} the rest of it")

    assert clause == AlertClause(
        metric="a/b.c",
        variable="value",
        operator=">=",
        threshold="NaN",
        minutes=3,
        action="grow",
        value="the rest of it",
    )


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ("If a.b > 1 for 3 minutes Then grow", "9 words, not 10"),
        ("When a.b > 1 for 3 minutes Then grow x", "'if' is expected, not 'When'"),
        ("If ab > 1 for 3 minutes Then grow x", "'ab' is no metric"),
        ("If .b > 1 for 3 minutes Then grow x", "'.b' is no metric"),
        ("If a. > 1 for 3 minutes Then grow x", "'a.' is no metric"),
        ("If a.b => 1 for 3 minutes Then grow x", "'=>' is no comparison"),
        ("If a.b > 1 over 3 minutes Then grow x", "'for' is expected, not 'over'"),
        ("If a.b > 1 for 0 minutes Then grow x", "'0' is no number of minutes"),
        ("If a.b > 1 for 1.5 minutes Then grow x", "'1.5' is no number of minutes"),
        ("If a.b > 1 for 1 minute Then grow x", "'minutes' is expected, not 'minute'"),
        ("If a.b > 1 for 1 minutes do grow x", "'then' is expected, not 'do'"),
        ("If a.b > 1 for 1 minutes Then explode x", "'explode' is no action"),
        ("If  a.b > 1 for 1 minutes Then grow x", "'for' is expected, not '1'"),
    ],
)
def test_a_wrong_clause_says_which_word_is_wrong(clause, message):
    with pytest.raises(BadInput, match="alert clause") as raised:
        parse_clause(clause)

    assert message in raised.value.message


@pytest.mark.parametrize(
    ("metric", "threshold", "odd"),
    [("a.b", "1", False), ("a.b", "-1.5e3", False), ("a.b", "NaN", False), ("a.b", "much", True),
     ("RS/server.state", "stranded", False), ("RS/server.state", "bored", True)],
)  # fmt: skip
def test_the_threshold_is_looked_at_apart(metric, threshold, odd):
    clause = parse_clause(f"If {metric} > {threshold} for 1 minutes Then grow x")

    assert bool(threshold_fault(clause)) is odd


def test_a_template_is_found_by_name_the_first_folder_winning(tmp_path):
    first, second = Folder(tmp_path / "first"), Folder(tmp_path / "second")
    mine = first.file("web.yml", "")
    second.file("web/web.yml", "")
    second.file("web/web.relaunch.yml", "")
    second.file("other/other.yml", "")
    folders = [tmp_path / "gone", first.root, second.root]

    assert find_template("web", folders).path == mine
    assert [listed.name for listed in list_templates(folders)] == ["other", "web"]


def test_an_unknown_template_is_answered_with_the_nearest(folder):
    folder.file("front-end/front-end.yml", "")

    with pytest.raises(NotFound) as raised:
        find_template("frontend", [folder.root])

    assert (raised.value.message, raised.value.hint) == (
        "there is no server template 'frontend'",
        "did you mean front-end?",
    )


def test_a_template_that_cannot_be_read_is_listed_with_its_fault(folder):
    folder.file("bad.yml", "Nam: x\n")
    folder.file("good.yml", "Name: x\n")

    bad, good = list_templates([folder.root])

    assert (bad.template, bad.fault.splitlines()[0].endswith("bad.yml:1: server template: unknown key 'Nam'")) == (
        None,
        True,
    )
    assert (good.template is not None, good.fault) == (True, "")


def test_the_hash_changes_with_every_file_a_server_is_made_of(folder):
    folder.file("a/attachments/x", "1")
    script = folder.file("a/boot.sh", "# ---\n# RightScript Name: A\n# Inputs: {}\n# Attachments: [x]\n# ...\n")
    path = folder.file("a/a.yml", "RightScripts: {Boot: [boot.sh]}\n")
    seen = {template_hash(read_template(path))}

    for file, text in (
        ("a/attachments/x", "2"),
        ("a/boot.sh", script.read_text() + "#"),
        ("a/a.relaunch.yml", "image: x\n"),
        ("a/a.yml", path.read_text() + "#"),
    ):
        folder.file(file, text)
        seen.add(template_hash(read_template(path)))

    assert len(seen) == 5
    assert template_hash(read_template(path)) in seen


def test_check_says_what_works_but_looks_wrong(folder):
    folder.file(
        "a/boot.sh",
        """\
# ---
# RightScript Name: A
# Inputs:
#   RS_NAME: {}
#   KIND: {Default: 'odd:1', Possible Values: ['text:a']}
#   LIST: {Input Type: array, Default: 'text:a'}
# ...
""",
    )
    folder.script("a/plain.sh").write_text("echo $X\n")
    path = folder.file(
        "a/a.yml",
        "Inputs:\n  KINDS: text:a\n  LIST: array:x\nRightScripts: {Boot: [boot.sh, plain.sh]}\n"
        "Alerts:\n- Name: n\n  Clause: If a.b > much for 1 minutes Then grow x\n",
    )

    findings = [(Path(f.file).name, f.line, f.level, f.message) for f in check_template(path)]

    assert findings == [
        ("boot.sh", 1, "warning", "no #! line: it cannot be executed"),
        ("boot.sh", 4, "warning", "input RS_NAME: names starting with RS_ or EC2_ are reserved"),
        ("boot.sh", 5, "warning", "input KIND: Default: Invalid input value: odd:1: no type 'odd'"
         " (known here: text, blank, ignore, env, cred, key, array)"),
        ("boot.sh", 5, "warning", "input KIND: Default odd:1 is not among its Possible Values"),
        ("boot.sh", 6, "warning", "input LIST: Default: text:a does not fit its Input Type, array"),
        ("plain.sh", None, "warning", "no metadata comment; its inputs are guessed from the text"),
        ("plain.sh", 1, "warning", "no #! line: it cannot be executed"),
        ("a.yml", 2, "warning", "no script has an input KINDS; did you mean KIND?"),
        ("a.yml", 3, "warning", "input LIST: Invalid input value: array:x: not JSON"
         " (Expecting value: line 1 column 1 (char 0))"),
        ("a.yml", 7, "warning", "alert n: threshold 'much' is neither a number, NaN, nor a state of an RS/ metric"),
    ]  # fmt: skip


def test_check_tells_an_error_with_its_place_once(folder):
    script = folder.file("a.sh", "#!/bin/sh\n# ---\n# RightScript Name: A\n# Input: {}\n# ...\n")

    (finding,) = check_script(script)

    assert str(finding) == (
        f"{script}:4: error: RightScript metadata comment: unknown key 'Input' (did you mean Inputs?)"
    )


@pytest.mark.parametrize("name", ["all-in-one", "app-server", "base", "front-end", "mysql"])
def test_our_own_templates_are_without_findings(name):
    assert [str(finding) for finding in check_template(TEMPLATES / name / f"{name}.yml")] == []


@pytest.mark.parametrize("name", ["front-end", "all-in-one"])
def test_what_apache_logs_is_rotated(name):
    """Debian's package brings the rules only, and the image has no program for them."""
    packages = packages_of(read_template(TEMPLATES / name / f"{name}.yml"))

    assert {"apache2", "logrotate"} <= set(packages)
