"""What `relaunch-local` answers from the view: pure, so that every answer can be compared in a test."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence

from relaunch.errors import BadInput

USAGE = """\
usage: relaunch-local QUESTION [--json] [--wait SECONDS]
  me                        this server's name
  primary                   address of the database group's primary
  replicas                  addresses of its replicas, one per line
  database                  name of the database group
  peers [--tag NAME[=VALUE]]   name and address of each server of the deployment, oneself included
  site                      names of the sites, one per line
  get A.B.C                 anything of the view, by its path: get database.epoch, get peers.0.address
  tag NAME=VALUE | -d NAME  publish or remove a tag of this server
  output NAME VALUE         publish an output of this server
  role                      primary or replica, when this database server is that, as the controller wants it
  apply                     bring /etc/hosts and HAProxy to the view now, and wait until they are
Exit status: 0 there is an answer, 1 there is none (or no), 2 not understood, 7 the controller or the agent is away.
--json prints the whole object. --wait: until there is an answer, at most so long.
"""
FROM_VIEW = ("me", "primary", "replicas", "database", "peers", "site", "get")


@dataclass(frozen=True)
class Question:
    verb: str
    words: Sequence[str] = ()
    as_json: bool = False
    wait_seconds: float = 0.0
    tags: Mapping[str, Optional[str]] = field(default_factory=dict)
    removed: Sequence[str] = ()


def parse(arguments: Sequence[str]) -> Question:
    """BadInput says what was not understood."""
    words: List[str] = []
    as_json, wait = False, 0.0
    tags: Dict[str, Optional[str]] = {}
    removed: List[str] = []
    left = list(arguments)
    verbatim = False
    while left:
        word = left.pop(0)
        if verbatim or not word.startswith("-"):
            words.append(word)
            # A value may begin with a dash.
            verbatim = verbatim or (words[0] == "output" and len(words) == 2)
        elif word == "--json":
            as_json = True
        elif word == "--":
            verbatim = True
        elif word in ("--wait", "--tag", "-d") and left:
            value = left.pop(0)
            if word == "--wait":
                wait = _seconds(value)
            elif word == "-d":
                removed.append(value)
            else:
                name, sign, wanted = value.partition("=")
                tags[name] = wanted if sign else None
        else:
            raise BadInput(f"relaunch-local: {word} is not understood or lacks its value")
    if not words:
        raise BadInput("relaunch-local: what do you want to know?")
    counts = {"get": (1,), "output": (2,), "tag": range(1, 100) if not removed else range(100)}
    if words[0] not in (*FROM_VIEW, "tag", "output", "role", "apply"):
        raise BadInput(f"relaunch-local: there is no {words[0]!r}")
    if len(words) - 1 not in counts.get(words[0], (0,)):
        raise BadInput(f"relaunch-local {words[0]}: wrong number of words")
    if (tags and words[0] != "peers") or (removed and words[0] != "tag"):
        raise BadInput(f"relaunch-local {words[0]}: --tag belongs to peers, -d to tag")
    return Question(words[0], words[1:], as_json, wait, tags, removed)


def answer(question: Question, view: Mapping[str, Any]) -> Optional[str]:
    """The text to print, None when there is no value (yet)."""
    value = _value(question, view)
    if value is None or value == [] or value == {} or value == "":
        return None
    if question.as_json:
        return json.dumps(value, indent=2, ensure_ascii=False)
    return _plain(question.verb, value)


def _value(question: Question, view: Mapping[str, Any]) -> Any:
    database = view.get("database") or {}
    if question.verb == "me":
        return view.get("server")
    if question.verb == "primary":
        return database.get("primary")
    if question.verb == "replicas":
        return database.get("replicas")
    if question.verb == "database":
        return database
    if question.verb == "site":
        return view.get("sites")
    if question.verb == "peers":
        return [peer for peer in view.get("peers") or () if _has(peer, question.tags)]
    return _at(view, question.words[0])


def _has(peer: Mapping[str, Any], tags: Mapping[str, Optional[str]]) -> bool:
    own: Dict[str, str] = peer.get("tags") or {}
    return all(name in own and (value is None or own[name] == value) for name, value in tags.items())


def _at(value: Any, path: str) -> Any:
    """By dots; a name with dots in it (a host's) is found as the longest match."""
    if not path:
        return value
    parts = path.split(".")
    if isinstance(value, list):
        if parts[0].isdigit() and int(parts[0]) < len(value):
            return _at(value[int(parts[0])], ".".join(parts[1:]))
        return None
    if isinstance(value, dict):
        for length in range(len(parts), 0, -1):
            name = ".".join(parts[:length])
            if name in value:
                return _at(value[name], ".".join(parts[length:]))
    return None


def _plain(verb: str, value: Any) -> str:
    if verb == "me":
        return str(value["name"])
    if verb == "primary":
        return str(value["address"])
    if verb == "database":
        return str(value["group"])
    if verb == "replicas":
        return "\n".join(str(replica["address"]) for replica in value)
    if verb == "peers":
        return "\n".join(f"{peer['name']} {peer['address']}" for peer in value)
    if verb == "site":
        return "\n".join(str(site["name"]) for site in value)
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise BadInput(f"relaunch-local: --wait {text}: not a number of seconds") from None
    if not 0 <= seconds <= 86400:
        raise BadInput(f"relaunch-local: --wait {text}: from 0 to 86400")
    return seconds
