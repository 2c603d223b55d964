"""Ending for good: as the seed of an image, or because this instance is no longer wanted."""

from __future__ import annotations

import shutil

from relaunch_agent.disk import remove, write_whole
from relaunch_agent.hosts import with_block
from relaunch_agent.places import Places


def forget_credential(places: Places) -> None:
    """Without /etc/relaunch/agent.json systemd does not start the agent again."""
    remove(places.config, places.credential, places.nonce)


def forget_instance(places: Places) -> None:
    """Everything that belongs to this instance only; fetched files, the program and its unit stay for the next ones."""
    forget_credential(places)
    for folder in (places.tls, places.state, places.runs, places.logs, places.maintenance):
        shutil.rmtree(folder, ignore_errors=True)
    remove(places.view, places.upgrade, places.previous_program, places.haproxy_file)
    if places.hosts.exists():
        write_whole(places.hosts, with_block(places.hosts.read_text(), {}))
