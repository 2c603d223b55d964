"""Images as layers: a folder each, `image.json` beside `tree/`, put in place by one rename.

A base image is built by its recipe (a folder with a `build` program); every other is the own layer of a stopped
instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from relaunch.clouds.local.files import need_space, no_space_is_a_conflict, remove_tree, sync_folder, write_json
from relaunch.clouds.local.guest import move_identity
from relaunch.clouds.local.records import ImageRecord, Store
from relaunch.errors import BadInput, Conflict, Failed, NotFound
from relaunch.shell import last_lines, run

BUILD_NEEDS_BYTES = 2 << 30
BUILD_SECONDS = 1800


def image_id(name: str) -> str:
    """The id follows from the name, so that the same name twice is the same image."""
    return f"img-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def recipe_hash(folder: Path) -> str:
    """The hash of what the image is made from: every file of the recipe but its changelog."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if not file.is_file() or inside.name == "CHANGELOG.md":
            continue
        digest.update(f"{inside}\0{file.stat().st_mode & 0o111:o}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


class Images:
    """The image folder of one cloud."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder, "image.json")
        self._folder = folder
        self._known: dict[str, ImageRecord] = {}
        self._building = asyncio.Lock()

    def open(self) -> list[ImageRecord]:
        """Read what is there, remove what was half built; images half made from an instance are returned, to be
        finished."""
        self._known = {image.id: image for image in self._store.read(ImageRecord)}
        for entry in self._folder.iterdir():
            if entry.is_dir() and entry.name not in self._known and entry.name != ".making":
                remove_tree(entry)
        making = self._folder / ".making"
        return list(Store(making, "image.json").read(ImageRecord)) if making.exists() else []

    def all(self) -> list[ImageRecord]:
        return list(self._known.values())

    def get(self, id: str) -> ImageRecord:
        if id not in self._known:
            raise NotFound(f"no image {id} in the local cloud")
        return self._known[id]

    def tree(self, id: str) -> Path:
        return self._folder / id / "tree"

    def layers(self, id: str) -> tuple[str, ...]:
        """The image and all it stands on, newest first."""
        image = self.get(id)
        return (id, *(self.layers(image.parent) if image.parent else ()))

    async def build(self, recipe: Path, progress: Callable[[str], None]) -> ImageRecord:
        """The image of a recipe, built now unless this content was built before."""
        program = recipe / "build"
        if not program.exists():
            raise NotFound(f"no image recipe {recipe.name} in {recipe.parent}", hint="a folder with a program `build`")
        content = recipe_hash(recipe)
        name = f"{recipe.name}-{content[:12]}"
        async with self._building:
            id = image_id(name)
            if id in self._known:
                return self._known[id]
            need_space(self._folder, BUILD_NEEDS_BYTES, f"building the image {recipe.name}")
            half = self._folder / f".build-{id}"
            remove_tree(half)
            half.mkdir()
            try:
                await self._run_recipe(program, half / "tree", progress)
                image = ImageRecord(
                    id=id,
                    name=name,
                    parent=None,
                    created=datetime.now(UTC),
                    tags={"recipe": recipe.name, "content": content},
                )
                return await self._put_in_place(half, image)
            finally:
                with contextlib.suppress(OSError):
                    remove_tree(half)

    async def _put_in_place(self, half: Path, image: ImageRecord) -> ImageRecord:
        with no_space_is_a_conflict(self._folder):
            await run("sync", "-f", half, timeout_seconds=300)
            write_json(half / "image.json", asdict(image))
            half.rename(self._folder / image.id)
        sync_folder(self._folder)
        self._known[image.id] = image
        return image

    async def _run_recipe(self, program: Path, tree: Path, progress: Callable[[str], None]) -> None:
        """Run it in namespaces of its own, so that no process and no mount of it outlives it, or us. Its last lines
        explain a failure."""
        lines: list[str] = []
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
            program,
            tree,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1 << 20,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(BUILD_SECONDS):
                async for raw in process.stdout:
                    line = raw.decode(errors="replace").rstrip()
                    lines = [*lines[-50:], line]
                    progress(line)
                status = await process.wait()
        except TimeoutError:
            raise Failed(f"the image recipe {program} did not end within {BUILD_SECONDS} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if status != 0:
            output = "\n".join(lines)
            if "No space left on device" in output:
                raise Conflict(f"no space left while building the image {program.parent.name}", hint=last_lines(output))
            raise Failed(f"the image recipe {program} failed with exit status {status}", hint=last_lines(output))

    def begin(self, *, name: str, tags: dict[str, str], parent: str, builder: str) -> ImageRecord:
        """Note that an image is being made from an instance; `finish` does it, now or after a crash."""
        if not name:
            raise BadInput("an image needs a name")
        image = ImageRecord(
            id=image_id(name), name=name, parent=parent, created=datetime.now(UTC), tags=dict(tags), builder=builder
        )
        Store(self._folder / ".making", "image.json").write(image)
        return image

    def finish(self, image: ImageRecord, *, instance_folder: Path) -> None:
        """Turn the instance's layer into the image's; each step is skipped when done before. The instance keeps its
        identity in a fresh layer above."""
        making = self._folder / ".making" / image.id
        upper, identity = instance_folder / "upper", instance_folder / "identity"
        assert image.parent is not None
        if not (making / "tree").exists():
            lowers = [self.tree(layer) for layer in self.layers(image.parent)]
            move_identity(upper=upper, identity=identity, lowers=lowers)
            upper.rename(making / "tree")
        if not upper.exists():
            identity.rename(upper)
        work = instance_folder / "work"
        if work.exists():
            shutil.rmtree(work)
        work.mkdir()

    def publish(self, image: ImageRecord) -> None:
        """The last step of `finish`, once the instance's record says that it stands on the image."""
        making = self._folder / ".making" / image.id
        if making.exists():
            making.rename(self._folder / image.id)
            sync_folder(self._folder)
        self._known[image.id] = image

    def forget(self, image: ImageRecord) -> None:
        """Give up an image whose instance is ended."""
        remove_tree(self._folder / ".making" / image.id)

    def by_name(self, name: str) -> ImageRecord | None:
        return self._known.get(image_id(name))

    async def delete(self, id: str) -> None:
        if id not in self._known:
            return
        above = next((image for image in self._known.values() if image.parent == id), None)
        if above is not None:
            raise Conflict(f"image {id} is in use: {above.name} stands on it", hint="delete that one first")
        del self._known[id]
        await asyncio.to_thread(self._store.remove, id)  # may be a gigabyte: nobody is to wait for it
