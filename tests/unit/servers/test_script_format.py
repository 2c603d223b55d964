"""The grammar of the published metadata comment, rule by rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaunch.errors import FormatError
from relaunch.servers.scripts import InputDeclaration, Script, metadata_comment, parse_script

SMALLEST = "RightScript Name: Small\nInputs: {}\n"


def commented(yaml: str, marker: str = "# ") -> str:
    return "".join(f"{marker}{line}\n" for line in ["---", *yaml.splitlines(), "..."])


@pytest.fixture
def parse(tmp_path: Path):
    def of(text: str | bytes, name: str = "script.sh") -> Script:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return parse_script(path)

    return of


def fault(parse, text: str) -> FormatError:
    with pytest.raises(FormatError) as raised:
        parse(text)
    return raised.value


def test_the_published_example_is_read_whole(parse, tmp_path):
    attachments = tmp_path / "attachments"
    attachments.mkdir()
    (attachments / "some.zip").write_text("x")
    (attachments / "deep").mkdir()
    (attachments / "deep" / "other.tar.xz").write_text("y")

    script = parse(
        """
#!/bin/bash
# ---
# RightScript Name: Some RightScript Name
# Description: Some description of stuff
# Packages: curl  jq
# Inputs:
#   TEXT_INPUT:
#     Category: Uncategorized
#     Description: Some test input
#     Input Type: single
#     Required: true
#     Advanced: false
#     Default: text:foobar
#     Possible Values:
#       - text:foobar
#       - text:barfoo
#   SUPPORTED_VERSIONS:
#     Input Type: array
#     Required: false
#     Advanced: true
#     Default: array:["text:v1","text:v2"]
#   BARE:
# Attachments:
#   - some.zip
#   - deep/other.tar.xz
# ...
"""
    )

    assert script == Script(
        path=tmp_path / "script.sh",
        name="Some RightScript Name",
        description="Some description of stuff",
        packages=("curl", "jq"),
        inputs=(
            InputDeclaration(
                name="TEXT_INPUT",
                line=8,
                category="Uncategorized",
                description="Some test input",
                required=True,
                default="text:foobar",
                possible_values=("text:foobar", "text:barfoo"),
            ),
            InputDeclaration(
                name="SUPPORTED_VERSIONS",
                line=18,
                is_array=True,
                advanced=True,
                default='array:["text:v1","text:v2"]',
            ),
            InputDeclaration(name="BARE", line=23),
        ),
        attachments=(attachments / "some.zip", attachments / "deep/other.tar.xz"),
    )


@pytest.mark.parametrize("marker", ["#", "# ", "#\t", "//", "// ", "--", "-- ", "   # ", "\t//", "\f-- "])
def test_each_marker_may_be_indented_and_followed_by_one_blank(parse, marker):
    assert parse(commented(SMALLEST, marker)).name == "Small"


def test_markers_may_be_mixed(parse):
    assert parse("# ---\n// RightScript Name: Mixed\n-- Inputs: {}\n  # ...\n").name == "Mixed"


def test_five_dashes_are_a_start_line(parse):
    script = parse("-----\n-- RightScript Name: Trap\n-- Inputs: {}\n-- ...\n")

    assert script.name == "Trap"


def test_a_line_of_five_dashes_further_down_opens_a_block_that_never_ends(parse):
    error = fault(parse, commented(SMALLEST) + "echo ok\n-----\n")

    assert str(error).splitlines()[0].endswith("script.sh:6: Unterminated RightScript metadata comment")


@pytest.mark.parametrize("line", ["# ----", "# --", "#-- -", "# --- x", "---", "; ---", "echo # ---", "#  -- -"])
def test_what_only_looks_like_a_start_is_none(parse, line):
    assert not parse(f"{line}\necho hello\n").has_metadata


@pytest.mark.parametrize("end", ["# ....", "# ..", "...", "# ... x"])
def test_what_only_looks_like_an_end_is_none(parse, end):
    error = fault(parse, f"# ---\n# RightScript Name: x\n# Inputs: {{}}\n{end}\n")

    assert "script.sh:1: Unterminated RightScript metadata comment" in str(error)
    assert "# ..." in error.hint


def test_carriage_returns_before_line_feeds_are_fine(parse):
    assert parse(commented(SMALLEST).replace("\n", "\r\n")).name == "Small"


def test_text_before_the_block_and_lines_without_comment_in_it_are_skipped(parse):
    script = parse("#!/bin/sh\n# words: [never, closed\n# ---\n# RightScript Name: A\nset -e\n\n# Inputs: {}\n# ...\n")

    assert script.name == "A"


def test_lines_are_counted_across_skipped_ones(parse):
    error = fault(parse, "#!/bin/sh\n# ---\n# RightScript Name: A\nset -e\n\n# Inputs: {}\n# Bogus: 1\n# ...\n")

    assert error.line == 7
    assert "unknown key 'Bogus'" in error.message


def test_only_the_first_document_of_several_blocks_counts(parse):
    script = parse(commented(SMALLEST) + "echo between\n" + commented("RightScript Name: Second\nBogus: [\n"))

    assert script.name == "Small"


def test_a_later_block_without_an_end_is_still_a_fault(parse):
    error = fault(parse, commented(SMALLEST) + "\n// ---\n// never read\n")

    assert error.line == 6


def test_without_a_line_feed_at_the_end_the_last_line_counts(parse):
    assert parse(commented(SMALLEST).rstrip("\n")).name == "Small"


def test_bytes_that_are_no_text_do_no_harm_outside_of_the_comment(parse):
    assert parse(commented(SMALLEST).encode() + b"\nprintf '\xff\xfe'\n").name == "Small"


def test_bytes_that_are_no_text_inside_of_the_comment_are_a_fault_in_their_line(parse):
    with pytest.raises(FormatError, match=r"script.sh:3: .* not allowed in YAML"):
        parse(b"# ---\n# RightScript Name: A\n# Description: \xff\n# Inputs: {}\n# ...\n")


def test_a_line_separator_inside_of_a_text_does_not_shift_line_numbers(parse):
    error = fault(parse, "# ---\n# RightScript Name: 'a\x85b'\n# Inputs: {}\n# Bogus: x\n# ...\n")

    assert error.line == 4


@pytest.mark.parametrize(
    ("yaml", "line", "message"),
    [
        ("Inputs: {}", 1, "RightScript Name is missing"),
        ("RightScript Name:\nInputs: {}", 2, "RightScript Name is missing"),
        ("RightScript Name: ''\nInputs: {}", 2, "RightScript Name is empty"),
        ("RightScript Name: A", 1, "Inputs is missing"),
        ("RightScript Name: A\nInputs:", 3, "Inputs is missing"),
        ("RightScript Name: A\nInputs: []", 3, "Inputs must be a map, not a list"),
        ("RightScript Name: [A]\nInputs: {}", 2, "RightScript Name must be text, not a list"),
        ("RightScript Name: A\nRightScript Name: B\nInputs: {}", 3, "'RightScript Name' is there twice"),
        ("RightScript Name: A\nInputs:\n  X:\n  Y:\n  X:", 6, "Inputs: 'X' is there twice"),
        ("RightScript Name: A\nInputs:\n  X: {Required: true, Required: true}", 4, "'Required' is there twice"),
        ("RightScript Name: A\nInputs: {}\nPackages: [curl]", 4, "Packages must be text, not a list"),
        ("RightScript Name: A\nInputs: {}\nAttachments: a.zip", 4, "Attachments must be a list, not 'a.zip'"),
        ("RightScript Name: A\nInputs: {}\nAttachments:\n- gone.zip", 5, "attachment gone.zip does not exist"),
        ("RightScript Name: A\nInputs:\n  X: {Input Type: bogus}", 4, "Invalid input type value: bogus"),
        ("RightScript Name: A\nInputs:\n  X: {Required: 'true'}", 4, "Required must be true or false, not 'true'"),
        ("RightScript Name: A\nInputs:\n  X: {Required: 1}", 4, "Required must be true or false, not '1'"),
        ("RightScript Name: A\nInputs:\n  X: {Default: foobar}", 4, "Invalid input value: foobar"),
        ("RightScript Name: A\nInputs:\n  X:\n    Default: 'text:'", 5, "use 'blank' or 'ignore'"),
        ("RightScript Name: A\nInputs:\n  X:\n    Default: inherit", 5, "Invalid input value: inherit"),
        ("RightScript Name: A\nInputs:\n  X:\n    Default: inherit:x", 5, "Invalid input value: inherit:x"),
        ("RightScript Name: A\nInputs:\n  X:\n    Possible Values: text:a", 5, "Possible Values must be a list"),
        ("RightScript Name: A\nInputs:\n  X:\n    Possible Values:\n    - a", 6, "Invalid input value: a"),
        ("RightScript Name: A\nInputs:\n  'A-B': {}", 4, "'A-B' cannot be the name of an environment variable"),
        ("RightScript Name: A\nInputs:\n  X: text:a", 4, "X must be a map, not 'text:a'"),
        ("RightScript Name: A\nInputs: {}\n\tTab: x", 4, "not valid YAML"),
        ("RightScript Name: A: B\nInputs: {}", 2, "not valid YAML"),
        ("- RightScript Name", 2, "must be a map, not a list"),
        ("RightScript Name: !odd A\nInputs: {}", 2, "tag !odd has no meaning here"),
        ("RightScript Name: *nowhere\nInputs: {}", 2, "not valid YAML"),
    ],
)
def test_a_fault_names_file_line_and_what(parse, yaml, line, message):
    error = fault(parse, commented(yaml))

    assert str(error).startswith(f"{error.file}:{line}: ")
    assert message in error.message
    assert error.file.endswith("/script.sh")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("Input", "Inputs"), ("RightScript name", "RightScript Name"), ("Attachment", "Attachments")],
)
def test_an_unknown_key_is_answered_with_the_nearest(parse, wrong, right):
    assert fault(parse, commented(f"{SMALLEST}{wrong}: x")).hint == f"did you mean {right}?"


def test_default_value_is_not_a_key(parse):
    error = fault(parse, commented("RightScript Name: A\nInputs:\n  X: {Default Value: text:a}"))

    assert "unknown key 'Default Value'" in error.message
    assert error.hint == "did you mean Default?"


@pytest.mark.parametrize("word", ["true", "yes", "on", "True", "YES", "On"])
def test_all_of_yamls_words_for_true_are_true(parse, word):
    assert parse(commented(f"RightScript Name: A\nInputs:\n  X: {{Required: {word}}}")).inputs[0].required


@pytest.mark.parametrize("word", ["false", "no", "off", "", "~"])
def test_all_of_yamls_words_for_false_and_nothing_are_false(parse, word):
    assert not parse(commented(f"RightScript Name: A\nInputs:\n  X: {{Required: {word}}}")).inputs[0].required


@pytest.mark.parametrize("text", ["1.10", "12:30:45", "yes", "0x1F", "2001-01-01", "1_000", "null_", "010"])
def test_texts_stay_as_they_are_written(parse, text):
    assert parse(commented(f"RightScript Name: {text}\nInputs: {{}}")).name == text


@pytest.mark.parametrize("value", ["blank", "blank:anything", "ignore", "ignore:", "env:X", "odd:1", "array:nonsense"])
def test_values_are_parsed_as_loosely_as_published(parse, value):
    assert parse(commented(f"RightScript Name: A\nInputs:\n  X: {{Default: '{value}'}}")).inputs[0].default == value


def test_two_attachments_may_not_have_one_base_name(parse, tmp_path):
    for folder in ("attachments", "attachments/deep"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.zip").write_text("x")

    error = fault(parse, commented(f"{SMALLEST}Attachments:\n- a.zip\n- deep/a.zip"))

    assert (error.line, error.message.endswith("two attachments are called a.zip")) == (6, True)


def test_an_absolute_attachment_is_taken_as_it_is(parse, tmp_path):
    (tmp_path / "far.zip").write_text("x")

    assert parse(commented(f"{SMALLEST}Attachments: [{tmp_path}/far.zip]")).attachments == (tmp_path / "far.zip",)


def test_a_script_that_is_not_there_is_told_by_its_path(tmp_path):
    with pytest.raises(FormatError, match=r"gone\.sh: there is no such script"):
        parse_script(tmp_path / "gone.sh")


def test_the_comment_knows_its_place_and_marker():
    comment = metadata_comment("#!/bin/sh\n\n// ---\n// a: 1\n// ...\necho\n", file="x")

    assert comment is not None
    assert (comment.marker, comment.first_line, comment.last_line) == ("//", 3, 5)
    assert (comment.text, comment.lines) == ("---\na: 1\n...\n", (3, 4, 5))


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("#!/bin/bash\necho $HOST ${PORT:=8080} $HOST\n", "a.sh", [("HOST", 2, None), ("PORT", 2, "text:8080")]),
        ("#!/bin/bash\necho $A\n: ${A:=later}\n", "a.sh", [("A", 2, "text:later")]),
        ("echo $lower $Mixed ${_X} $1 $$\n", "a.sh", []),
        ("echo $PATH $HOME $RS_REBOOT $EC2_X $ATTACH_DIR $INSTANCE_ID $PWD\n", "a.sh", []),
        (
            "#!/usr/bin/env ruby\nputs ENV['NAME'], ENV[\"OTHER\"], $DEBUG\n",
            "a",
            [("NAME", 2, None), ("OTHER", 2, None)],
        ),
        ("#!/usr/bin/perl\nprint $ENV{NAME}, $ENV{'OTHER'};\n", "a", [("NAME", 2, None), ("OTHER", 2, None)]),
        ("Write-Host $env:NAME $Env:OTHER\n", "a.ps1", [("NAME", 1, None), ("OTHER", 1, None)]),
    ],
)
def test_inputs_are_detected_when_there_is_no_metadata(parse, text, name, found):
    script = parse(text, name)

    assert (script.name, script.has_metadata) == (name, False)
    assert [(declared.name, declared.line, declared.default) for declared in script.inputs] == found
    assert not any(declared.required for declared in script.inputs)
