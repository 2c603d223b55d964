"""A cloud to try things on, and a look inside its instances where they are real."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relaunch.clouds.cloud import ImageId, Instance, InstanceId, LaunchRequest
from relaunch.clouds.fake import FakeCloud
from relaunch.clouds.local.cloud import LocalCloud


def until(is_so: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Wait until it is so now; raises with what was waited for."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


@dataclass
class Lab:
    """A cloud with an image to launch from, and launches that are all ended after the test."""

    cloud: FakeCloud | LocalCloud
    image: ImageId
    serial: int = 0

    def request(self, name: str = "", **more: object) -> LaunchRequest:
        self.serial += 1
        name = name or f"t{self.serial}"
        token = f"{name}-{time.time_ns()}"
        return LaunchRequest(**{"client_token": token, "name": name, "image": self.image, "zone": "a", **more})

    async def launch(self, name: str = "", **more: object) -> Instance:
        return await self.cloud.launch(self.request(name, **more))

    async def clear(self) -> None:
        for instance in await self.cloud.instances():
            await self.cloud.terminate(instance.id)
        for volume in await self.cloud.volumes():
            await self.cloud.delete_volume(volume.id)
        for snapshot in await self.cloud.snapshots():
            await self.cloud.delete_snapshot(snapshot.id)
        for _ in range(3):  # an image goes before the one it stands on
            for image in await self.cloud.images():
                if image.id != self.image and not any(other.parent == image.id for other in await self.cloud.images()):
                    await self.cloud.delete_image(image.id)
        for group in await self.cloud.security_groups():
            await self.cloud.delete_security_group(group)


class LocalLab(Lab):
    """The same with real machines to look into."""

    cloud: LocalCloud
    folder: Path

    def inside(self, instance: InstanceId, script: str, *, check: bool = True, seconds: float = 30) -> str:
        """Run a shell script inside the instance; its output. Without `check`, nothing of one that does not run."""
        pid = self.cloud.init_process(instance)
        if pid is None and not check:
            return ""
        assert pid is not None, f"{instance} does not run"
        done = subprocess.run(
            ["nsenter", "--target", str(pid), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"exit status {done.returncode}: {script}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def booted(self, instance: InstanceId) -> None:
        """Wait until its network is up and what starts at boot has started."""

        def is_up() -> bool:
            ask = "systemctl is-system-running; ip -4 -o address show host0; :"
            state, _, address = self.inside(instance, ask, check=False).partition("\n")
            return state in ("running", "degraded") and address != ""

        until(is_up, f"{instance} has booted")

    async def launch_booted(self, name: str = "", **more: object) -> Instance:
        instance = await self.launch(name, **more)
        self.booted(instance.id)
        return instance
