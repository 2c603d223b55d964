from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaunch.errors import BadInput
from relaunch.servers.values import (
    ENVIRONMENT_NAMES,
    Array,
    Blank,
    Cred,
    Env,
    Ignore,
    Key,
    Text,
    facts_in,
    parse_value,
    secrets_in,
    written,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("text:a", Text("a")),
        ("text:a:b", Text("a:b")),
        ("text: a ", Text(" a ")),
        ("blank", Blank()),
        ("blank:", Blank()),
        ("blank:whatever", Blank()),
        ("ignore", Ignore()),
        ("ignore:whatever", Ignore()),
        ("env:PRIVATE_IP", Env("PRIVATE_IP")),
        ("env:db1:PRIVATE_IP", Env("PRIVATE_IP", "db1")),
        ("env:odd:name:PUBLIC_IP", Env("PUBLIC_IP", "odd:name")),
        ("cred:DB_PASSWORD", Cred("DB_PASSWORD")),
        ("key:deploy", Key("deploy")),
        ('array:["text:a","cred:B"]', Array((Text("a"), Cred("B")))),
        ("array:[]", Array(())),
    ],
)
def test_each_form_is_read(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("foobar", "Invalid input value: foobar", "a value is written TYPE:VALUE, for example text:8080"),
        ("", "Invalid input value: ", "a value is written TYPE:VALUE, for example text:8080"),
        ("text:", "Invalid input value: text: with nothing after it: use 'blank' or 'ignore'", ""),
        ("inherit", "Invalid input value: inherit (it has no meaning here: leave the input out)", ""),
        ("txt:a", "Invalid input value: txt:a: no type 'txt'", "did you mean text?"),
        ("Text:a", "Invalid input value: Text:a: no type 'Text'", "did you mean text?"),
        ("env:PRIVATE", "Invalid input value: env:PRIVATE: no fact 'PRIVATE'", "did you mean PRIVATE_IP?"),
        ("env::PRIVATE_IP", "Invalid input value: env::PRIVATE_IP: the server's name is missing", ""),
        ("cred:", "Invalid input value: cred:: a name is missing after the colon", ""),
        ("array:a,b", "Invalid input value: array:a,b: not JSON", 'for example array:["text:a","text:b"]'),
        ('array:"text:a"', "must be a list of texts", ""),
        ("array:[1]", "must be a list of texts", ""),
        ('array:["a"]', "Invalid input value: a", ""),
        ('array:["ignore"]', "'ignore' cannot stand in an array", ""),
        ('array:["array:[]"]', "'array:[]' cannot stand in an array", ""),
    ],
)
def test_each_wrong_form_is_told(text, message, hint):
    with pytest.raises(BadInput) as raised:
        parse_value(text)

    assert message in raised.value.message
    assert not hint or raised.value.hint == hint


name = st.text(min_size=1).filter(lambda text: text.strip() != "")
single = st.one_of(
    st.builds(Text, st.text(min_size=1)),
    st.just(Blank()),
    st.builds(Env, st.sampled_from(ENVIRONMENT_NAMES), st.none() | st.text(min_size=1)),
    st.builds(Cred, name),
    st.builds(Key, name),
)


@settings(max_examples=50, deadline=None)
@given(single | st.just(Ignore()) | st.builds(Array, st.lists(single, max_size=4).map(tuple)))
def test_a_written_value_is_read_back(value):
    assert parse_value(written(value)) == value


def test_what_a_value_needs_is_found_inside_of_arrays():
    value = parse_value('array:["cred:A","text:x","key:B","env:db1:PRIVATE_IP"]')

    assert secrets_in(value) == ("A", "B")
    assert facts_in(value) == (Env("PRIVATE_IP", "db1"),)
    assert secrets_in(None) == secrets_in(Text("cred:A")) == facts_in(None) == ()
