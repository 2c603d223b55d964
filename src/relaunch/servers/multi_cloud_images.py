"""The published format's images of a template: parsed strictly and kept; relaunch's own image is named beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relaunch.servers.strict_yaml import Element, read_document

_KEYS = ("Href", "Name", "Revision", "Publisher", "Description", "Tags", "Settings")
_SETTING_KEYS = ("Cloud", "Instance Type", "Image", "User Data")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSetting:
    cloud: str = ""
    instance_type: str = ""
    image: str = ""
    user_data: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiCloudImage:
    """`kind` says which of its keys counts: href | settings | publisher | name, tested in this order."""

    kind: str
    href: str = ""
    name: str = ""
    revision: str = ""
    publisher: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    settings: tuple[ImageSetting, ...] = ()
    file: str = ""
    line: int = 0


def read_images(element: Element) -> tuple[MultiCloudImage, ...]:
    """The images of a list in their order, the first being the default."""
    folder = Path(element.source.file).parent
    return tuple(_image(_of_file(item, folder) if item.is_scalar else item) for item in element.items())


def _of_file(item: Element, folder: Path) -> Element:
    file = folder / item.required_text()
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise item.fault(f"image file {item.text()} cannot be read", hint=f"looked for {file}") from None
    root = read_document(text, file=str(file), what="image file")
    if root is None:
        raise item.fault(f"image file {item.text()} is empty")
    return root


def _image(element: Element) -> MultiCloudImage:
    keys = element.entries(_KEYS)
    kind = next((key for key in ("Href", "Settings", "Publisher", "Name") if key in keys), None)
    if kind is None:
        raise element.fault("an image needs Href, Settings, Publisher or Name")
    revision = keys["Revision"].text() if "Revision" in keys else ""
    if revision and revision not in ("latest", "head") and not (revision.isascii() and revision.isdigit()):
        raise keys["Revision"].fault(f"Revision must be a number, latest or head, not {revision!r}")
    return MultiCloudImage(
        kind=kind.lower(),
        href=keys["Href"].text() if "Href" in keys else "",
        name=keys["Name"].text() if "Name" in keys else "",
        revision=revision,
        publisher=keys["Publisher"].text() if "Publisher" in keys else "",
        description=keys["Description"].text() if "Description" in keys else "",
        tags=tuple(tag.text() for tag in keys["Tags"].items()) if "Tags" in keys else (),
        settings=tuple(_setting(setting) for setting in keys["Settings"].items()) if "Settings" in keys else (),
        file=element.source.file,
        line=element.line,
    )


def _setting(element: Element) -> ImageSetting:
    keys = element.entries(_SETTING_KEYS)
    return ImageSetting(
        cloud=keys["Cloud"].text() if "Cloud" in keys else "",
        instance_type=keys["Instance Type"].text() if "Instance Type" in keys else "",
        image=keys["Image"].text() if "Image" in keys else "",
        user_data=keys["User Data"].text() if "User Data" in keys else "",
    )
