"""The canonical form of the metadata comment, and that nothing is lost in it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaunch.servers.script_writing import canonical_metadata, with_metadata
from relaunch.servers.scripts import InputDeclaration, Script, parse_script


def test_the_canonical_form_is_this(tmp_path):
    script = Script(
        path=tmp_path / "a.sh",
        name="Install app",
        description="First line.\n\n- second\n",
        packages=("curl", "jq"),
        inputs=(
            InputDeclaration(
                name="APP",
                line=1,
                category="App",
                required=True,
                default="text:yes",
                possible_values=("text:yes", "text:a: b"),
            ),
            InputDeclaration(name="LIST", line=1, is_array=True, advanced=True),
            InputDeclaration(name="BARE", line=1),
        ),
        attachments=(tmp_path / "attachments/deep/a.zip", Path("/far/b.zip")),
    )

    assert (
        canonical_metadata(script, "//")
        == """\
// ---
// RightScript Name: Install app
// Description: |
//   First line.
//
//   - second
// Packages: curl jq
// Inputs:
//   APP:
//     Category: App
//     Required: true
//     Default: text:yes
//     Possible Values:
//     - text:yes
//     - 'text:a: b'
//   LIST:
//     Input Type: array
//     Advanced: true
//   BARE: {}
// Attachments:
// - deep/a.zip
// - /far/b.zip
// ...
"""
    )


def test_no_inputs_are_written_as_an_empty_map():
    assert (
        canonical_metadata(Script(path=Path("a"), name="yes"))
        == "# ---\n# RightScript Name: 'yes'\n# Inputs: {}\n# ...\n"
    )


def test_a_description_with_a_line_of_three_dots_does_not_end_the_comment(tmp_path):
    script = Script(path=tmp_path / "a.sh", name="A", description="one\n...\ntwo")

    (tmp_path / "a.sh").write_text(canonical_metadata(script))

    assert parse_script(tmp_path / "a.sh") == script


def test_the_comment_is_rewritten_in_its_place_with_its_marker(tmp_path):
    path = tmp_path / "a.sql"
    path.write_text("#!/bin/x\nselect 1;\n  --  ---\n")
    text = "select 1;\n--  x\n-- ---\n-- Inputs: {}\nselect 2;\n-- RightScript Name: A\n-- ...\nselect 3;\n"
    path.write_text(text)

    assert with_metadata(text, parse_script(path)) == (
        "select 1;\n--  x\n-- ---\n-- RightScript Name: A\n-- Inputs: {}\n-- ...\nselect 3;\n"
    )


def test_a_script_without_comment_gets_it_after_its_first_line(tmp_path):
    text = "#!/bin/sh\necho $NAME\n"
    (tmp_path / "a.sh").write_text(text)

    assert with_metadata(text, parse_script(tmp_path / "a.sh")) == (
        "#!/bin/sh\n# ---\n# RightScript Name: a.sh\n# Inputs:\n#   NAME: {}\n# ...\necho $NAME\n"
    )


words = st.text(min_size=1).filter(lambda text: text.strip() != "")
value = st.one_of(
    st.sampled_from(["blank", "ignore", "ignore:x", "env:PRIVATE_IP", 'array:["text:a"]', "cred:A", "odd:..."]),
    st.text(min_size=1).map(lambda text: f"text:{text}"),
)
declaration = st.builds(
    InputDeclaration,
    name=st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
    line=st.just(1),
    category=st.text(),
    description=st.text(),
    is_array=st.booleans(),
    required=st.booleans(),
    advanced=st.booleans(),
    default=st.none() | value,
    possible_values=st.lists(value, max_size=3).map(tuple),
)
scripts = st.builds(
    Script,
    path=st.just(Path("/unused")),
    name=words,
    description=st.text()
    | st.lists(st.sampled_from(["a", " b", "...", "---", "", "#", "x: y", "\t", "| "])).map("\n".join),
    packages=st.lists(st.from_regex(r"[a-z0-9.+:=-]+", fullmatch=True), max_size=3).map(tuple),
    inputs=st.lists(declaration, max_size=3, unique_by=lambda declared: declared.name).map(tuple),
)


@settings(max_examples=30, deadline=None)
@given(scripts, st.sampled_from(["#", "//", "--"]))
def test_whatever_is_written_is_read_back_the_same(script, marker):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sh"
        path.write_bytes(b"#!/bin/sh\n" + canonical_metadata(script, marker).encode() + b"exit 0\n")

        back = parse_script(path)

    inputs = tuple(replace(declared, line=1) for declared in back.inputs)
    assert replace(back, path=script.path, inputs=inputs) == script


def test_writing_is_the_same_twice(tmp_path):
    path = tmp_path / "a.sh"
    path.write_text("#!/bin/sh\n#---\n#RightScript Name:   'A'\n#Inputs: {X: {Required: yes}}\n#...\n")
    once = with_metadata(path.read_text(), parse_script(path))
    path.write_text(once)

    assert with_metadata(once, parse_script(path)) == once


@pytest.mark.parametrize(
    "script", sorted((Path(__file__).parents[3] / "templates/scripts").glob("*.sh")), ids=lambda p: p.name
)
def test_our_own_scripts_survive_rewriting(script, tmp_path):
    original = parse_script(script)
    copy = tmp_path / "scripts" / script.name
    copy.parent.mkdir()
    (copy.parent / "attachments").symlink_to(script.parent / "attachments")

    copy.write_text(with_metadata(script.read_text(), original))

    back = parse_script(copy)
    assert (back.name, back.description, back.packages) == (original.name, original.description, original.packages)
    assert [replace(i, line=0) for i in back.inputs] == [replace(i, line=0) for i in original.inputs]
