"""A server template: image, scripts of each phase, inputs; and the file of our own that stands beside it.

`front-end.yml` is RightScale's format, readable by both. `front-end.relaunch.yml` beside it holds what relaunch needs
beyond: image, what is baked, ports, what the server offers.
"""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relaunch.errors import FormatError, NotFound
from relaunch.servers.alerts import AlertSpec, read_alerts
from relaunch.servers.multi_cloud_images import MultiCloudImage, read_images
from relaunch.servers.scripts import Script, parse_script, value_text
from relaunch.servers.strict_yaml import Element, did_you_mean, read_document
from relaunch.servers.template_extras import Ingress as Ingress
from relaunch.servers.template_extras import Offer as Offer
from relaunch.servers.template_extras import read_extras

PHASES = ("Boot", "Operational", "Decommission")
_KEYS = ("Name", "Description", "Inputs", "RightScripts", "MultiCloudImages", "Alerts")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTemplate:
    """`name` is what a deployment calls it. `baked` ⊆ boot: scripts of the install half, run once into the image."""

    name: str
    path: Path
    title: str = ""  # Name in the file
    description: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    input_lines: dict[str, int] = field(default_factory=dict)
    boot: tuple[Script, ...] = ()
    operational: tuple[Script, ...] = ()
    decommission: tuple[Script, ...] = ()
    image: str = "trixie"  # the base image's recipe name in images/
    baked: tuple[Script, ...] = ()
    ingress: tuple[Ingress, ...] = ()
    offers: tuple[Offer, ...] = ()
    memory_bytes: int | None = None
    volume: str = ""  # where in the server its volume appears; without it it can have none
    multi_cloud_images: tuple[MultiCloudImage, ...] = ()
    alerts: tuple[AlertSpec, ...] = ()

    @property
    def scripts(self) -> tuple[Script, ...]:
        """All of its scripts, each once, in the order of their phases."""
        return tuple({script.path: script for script in (*self.boot, *self.operational, *self.decommission)}.values())

    def offers_role(self, role: str) -> bool:
        return any(offer.role == role for offer in self.offers)

    @property
    def is_database(self) -> bool:
        """Whether its servers can be members of a group."""
        return self.offers_role("database") or any(script.name == "Join database group" for script in self.boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTemplate:
    """A template found in a folder; `fault` says why it cannot be used, `template` is None then."""

    name: str
    path: Path
    template: ServerTemplate | None = None
    fault: str = ""


def read_template(path: Path) -> ServerTemplate:
    """The template in a file and the file of ours beside it; FormatError carries file and line of the first fault."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise FormatError("there is no such template", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"the template cannot be read: {error}", file=str(path)) from None
    root = read_document(text, file=str(path), what="server template")
    keys = root.entries(_KEYS) if root else {}
    inputs = keys["Inputs"].entries() if "Inputs" in keys else {}
    phases = _phases(path, keys["RightScripts"]) if "RightScripts" in keys else dict.fromkeys(PHASES, ())
    extras = read_extras(path.with_name(f"{path.stem}.relaunch.yml"), phases["Boot"])
    return ServerTemplate(
        name=path.stem,
        path=path,
        title=keys["Name"].text() if "Name" in keys else "",
        description=keys["Description"].text() if "Description" in keys else "",
        inputs={name: value_text(element) for name, element in inputs.items()},
        input_lines={name: element.line for name, element in inputs.items()},
        boot=phases["Boot"],
        operational=phases["Operational"],
        decommission=phases["Decommission"],
        image=extras.image,
        baked=extras.baked,
        ingress=extras.ingress,
        offers=extras.offers,
        memory_bytes=extras.memory_bytes,
        volume=extras.volume,
        multi_cloud_images=read_images(keys["MultiCloudImages"]) if "MultiCloudImages" in keys else (),
        alerts=read_alerts(keys["Alerts"]) if "Alerts" in keys else (),
    )


def template_paths(folders: Sequence[Path]) -> dict[str, Path]:
    """Where each template is, by name; the first folder that has it wins."""
    found: dict[str, Path] = {}
    for folder in folders:
        nested = [entry / f"{entry.name}.yml" for entry in sorted(folder.iterdir())] if folder.is_dir() else []
        flat = sorted(folder.glob("*.yml"))
        for path in [*nested, *flat]:
            if path.is_file() and not path.name.endswith(".relaunch.yml"):
                found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_template(name: str, folders: Sequence[Path]) -> ServerTemplate:
    """The template of that name; NotFound names the nearest."""
    known = template_paths(folders)
    if name not in known:
        looked = ", ".join(map(str, folders)) or "no folder"
        hint = did_you_mean(name, known) or f"looked in {looked}"
        raise NotFound(f"there is no server template {name!r}", hint=hint)
    return read_template(known[name])


def list_templates(folders: Sequence[Path]) -> tuple[ListedTemplate, ...]:
    """All templates, by name, those that cannot be read with their fault."""
    return tuple(_listed(name, path) for name, path in template_paths(folders).items())


def template_hash(template: ServerTemplate) -> str:
    """The SHA-256 of all that makes a server of it: the files of the template, its scripts and their attachments."""
    files = [template.path, template.path.with_name(f"{template.path.stem}.relaunch.yml")]
    for script in template.scripts:
        files += [script.path, *script.attachments]
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes() if file.is_file() else b""
        digest.update(f"{file.name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def _listed(name: str, path: Path) -> ListedTemplate:
    try:
        return ListedTemplate(name=name, path=path, template=read_template(path))
    except FormatError as error:
        return ListedTemplate(name=name, path=path, fault=str(error))


def _phases(path: Path, element: Element) -> dict[str, tuple[Script, ...]]:
    items = {phase: phase_element.items() for phase, phase_element in element.entries(PHASES).items()}
    found: dict[str, list[Path]] = {phase: [] for phase in PHASES}
    missing: list[tuple[Element, str]] = []
    for phase, phase_items in items.items():
        for item in phase_items:
            wanted, file = _script_file(path, item)
            if file is None:
                missing.append((item, wanted))
            else:
                found[phase].append(file)
    if missing:
        told = ", ".join(f"{wanted} (line {item.line})" for item, wanted in missing)
        raise missing[0][0].fault(
            f"{len(missing)} script{'s are' if len(missing) > 1 else ' is'} missing: {told}",
            hint=f"paths are relative to {path.parent}; a Name is looked for among the scripts there and in ../scripts",
        )
    parsed = {file: parse_script(file) for files in found.values() for file in files}
    return {phase: tuple(parsed[file] for file in files) for phase, files in found.items()}


def _script_file(path: Path, item: Element) -> tuple[str, Path | None]:
    """What the item asks for, and the file that is it."""
    if not item.is_map:
        wanted = item.required_text()
        file = Path(os.path.normpath(path.parent / wanted))
        return wanted, file if file.is_file() else None
    keys = item.entries()
    if "Name" not in keys:
        raise item.fault("a script is a path, or a map with Name")
    wanted = keys["Name"].required_text()
    return repr(wanted), _named_script(path.parent, wanted)


def _named_script(folder: Path, name: str) -> Path | None:
    """The local script whose metadata has that name: nothing is fetched from a publisher."""
    for place in (folder, folder / "scripts", Path(os.path.normpath(folder / "../scripts"))):
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.suffix in (".yml", ".yaml") or not file.is_file():
                continue
            try:
                script = parse_script(file)
            except FormatError:
                continue
            if script.has_metadata and script.name == name:
                return file
    return None
