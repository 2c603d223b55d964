"""Cloning a template: its files and all scripts it names, in one folder that can be edited without touching another."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from relaunch.errors import BadInput, Conflict
from relaunch.servers.templates import ServerTemplate, find_template, read_template, template_paths

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


def clone_template(name: str, new_name: str, folders: Sequence[Path]) -> ServerTemplate:
    """The copy, in the last folder but the program's own."""
    if not NAME.fullmatch(new_name):
        raise BadInput(f"{new_name!r} is no name for a template", hint="small letters, digits and - only")
    if new_name in template_paths(folders):
        raise Conflict(f"there is a template {new_name} already", hint="choose another name")
    if len(folders) < 2:
        raise Conflict("there is no folder for templates of one's own")
    template = find_template(name, folders)
    made = folders[-2] / new_name
    try:
        _copy(template, made, new_name)
        return read_template(made / f"{new_name}.yml")
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _copy(template: ServerTemplate, made: Path, new_name: str) -> None:
    scripts = made / "scripts"
    (scripts / "attachments").mkdir(parents=True)
    moved = {}
    for script in template.scripts:
        shutil.copy2(script.path, scripts / script.path.name)
        moved[os.path.relpath(script.path, template.path.parent)] = f"scripts/{script.path.name}"
        for attachment in script.attachments:
            shutil.copy2(attachment, scripts / "attachments" / attachment.name)
    for file, suffix in ((template.path, ".yml"), (_extras(template.path), ".relaunch.yml")):
        if file.exists():
            text = file.read_text("utf-8")
            for old, new in moved.items():
                text = re.sub(rf"(?<![\w./-]){re.escape(old)}(?![\w./-])", new, text)
            (made / f"{new_name}{suffix}").write_text(text, "utf-8")


def _extras(path: Path) -> Path:
    return path.with_name(f"{path.stem}.relaunch.yml")
