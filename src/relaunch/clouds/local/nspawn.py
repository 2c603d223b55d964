"""Processes of instances: started so that they outlive the controller, recognised for certain, ended in order or at
once.

An instance runs while its runner (runner.sh) holds the lock on its file `running`: no name pattern, no process number
that the kernel may have given to another since. On a host whose first process is systemd the runner is a transient
unit of the slice `relaunch.slice`; elsewhere it is detached, in a session and control groups of its own.

Guests are full machines in containers: their root is the host's user 0 with the capabilities systemd-nspawn leaves.
That keeps accidents in, not an attacker with a kernel exploit.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relaunch.clouds.local import cgroups
from relaunch.clouds.local.cgroups import Limits
from relaunch.clouds.local.files import write_text
from relaunch.errors import Failed
from relaunch.shell import last_lines, run

STOP_SECONDS = 20  # for an orderly shut-down, then by force
SIGNAL_AGAIN_SECONDS = 0.5
HALT, REBOOT = signal.SIGRTMIN + 3, signal.SIGRTMIN + 5  # systemd(1)
KILL_SECONDS = 10  # the kernel's own clearing away, bounded in case of an uninterruptible process
UNIFIED = "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"  # a guest's systemd ≥ 256 refuses cgroup v1


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """How to boot one instance; paths are relative to the cloud's folder, mount points of volumes absolute."""

    instance: str
    bridge: str
    layers: tuple[str, ...]  # newest first
    binds: tuple[tuple[str, str], ...] = ()  # folder of the host, path in the guest

    @property
    def mount_options(self) -> str:
        own = f"instances/{self.instance}"
        lower = ":".join(f"images/{layer}/tree" for layer in self.layers)
        return f"lowerdir={lower},upperdir={own}/upper,workdir={own}/work,redirect_dir=off"

    @property
    def arguments(self) -> tuple[str, ...]:
        return (
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            f"--network-bridge={self.bridge}",
            f"--machine={self.instance}",
            "--console=read-only",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--setenv=SYSTEMD_COLORS=0",
            *(f"--bind={source}:{target}" for source, target in self.binds),
        )


def interface(instance: str) -> str:
    """The host's end of the instance's cable: systemd-nspawn's name for it."""
    return f"vb-{instance}"


class Nspawn:
    """Start and end instances of the cloud in `folder`."""

    def __init__(self, folder: Path, bridge: str) -> None:
        self._folder = folder
        self._bridge = bridge
        self.under_systemd = Path("/run/systemd/system").is_dir()

    def install_runner(self) -> None:
        """A copy in the cloud's folder: a shell reads its script as it goes, so the program's own may be replaced."""
        source = Path(__file__).with_name("runner.sh").read_text()
        target = self._folder / "runner.sh"
        if not target.exists() or target.read_text() != source:
            write_text(target, source, mode=0o755)

    def _own(self, instance: str) -> Path:
        return self._folder / "instances" / instance

    def _unit(self, instance: str) -> str:
        return f"relaunch-{self._bridge}-{instance}.service"

    def is_running(self, instance: str) -> bool:
        """Does a runner hold the instance's lock."""
        try:
            descriptor = os.open(self._own(instance) / "running", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def ended_by_itself(self, instance: str) -> bool:
        """Did the guest shut down in order without being told by us."""
        with contextlib.suppress(FileNotFoundError):
            return (self._own(instance) / "ended").read_text().strip() == "0"
        return False

    def write_boot(self, boot: Boot) -> None:
        """What the next boot of this instance will be."""
        own = self._own(boot.instance)
        write_text(own / "mount-options", boot.mount_options)
        write_text(own / "arguments", "\n".join(boot.arguments) + "\n")

    async def start(self, boot: Boot, limits: Limits) -> None:
        """Boot it; running already is no error. Failed, with what its runner said, when it does not start."""
        if self.is_running(boot.instance):
            return
        await self.kill(boot.instance)  # whatever a killed runner left
        self.write_boot(boot)
        own = self._own(boot.instance)
        (own / "running").write_text("")  # an older runner's process id must not be taken for the new one's
        runner = ("sh", self._folder / "runner.sh", self._folder, boot.instance)
        if self.under_systemd:
            await self._start_unit(boot.instance, limits, runner)
        else:
            groups = cgroups.make_groups(self._bridge, boot.instance, limits)
            write_text(own / "cgroups", "".join(f"{group}\n" for group in groups))
            with (own / "runner.log").open("a") as log:
                process = await asyncio.create_subprocess_exec(
                    "setsid",
                    "--fork",
                    *runner,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={**os.environ, UNIFIED: "1"},
                )
                await process.wait()
        try:
            await _until(lambda: self.is_running(boot.instance) and self._pid(boot.instance) is not None, 10)
        except TimeoutError:
            log_text = (own / "runner.log").read_text() if (own / "runner.log").exists() else ""
            raise Failed(f"{boot.instance} did not start", hint=last_lines(log_text)) from None

    async def _start_unit(self, instance: str, limits: Limits, runner: tuple[str | Path, ...]) -> None:
        unit = self._unit(instance)
        await run("systemctl", "reset-failed", unit, check=False)
        properties = ["Delegate=yes", "KillMode=mixed", f"TimeoutStopSec={STOP_SECONDS + 5}", "TasksMax=infinity"]
        if limits.memory_bytes:
            properties.append(f"MemoryMax={limits.memory_bytes}")
        if limits.cpus:
            properties.append(f"CPUQuota={int(limits.cpus * 100)}%")
        await run(
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={unit}",
            "--slice=relaunch.slice",
            f"--description=relaunch instance {instance}",
            f"--setenv={UNIFIED}=1",
            *(f"--property={each}" for each in properties),
            *(str(word) for word in runner),
        )

    def _pid(self, instance: str) -> int | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self._own(instance) / "running").read_text())
        return None

    def group(self, instance: str) -> Path | None:
        """The cgroup v2 folder all its processes are in or below; None when it has none."""
        root = cgroups.unified_root()
        if root is None:
            return None
        if self.under_systemd:
            return root / "relaunch.slice" / self._unit(instance)
        return root / "relaunch" / self._bridge / instance

    def init_process(self, instance: str) -> int | None:
        """The guest's process 1, as the host numbers it."""
        group = self.group(instance)
        if group is None:
            return None
        # A guest that boots moves it from one group into another, perhaps out of one that is still to be read.
        return cgroups.first_process(group) or cgroups.first_process(group)

    def signal_init(self, instance: str, number: int) -> None:
        """Tell the guest's systemd to halt or to reboot, as its manual's section on signals has it."""
        pid = self.init_process(instance)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def stop(self, instance: str) -> None:
        """Shut down in order, by force when that takes too long; not running is no error."""
        pid = self._pid(instance)
        if self.is_running(instance) and pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            # A guest in the first moments of its boot hears no signal: repeat it, systemd does not mind.
            for _ in range(int(STOP_SECONDS / SIGNAL_AGAIN_SECONDS)):
                with contextlib.suppress(TimeoutError):
                    await _until(lambda: not self.is_running(instance), SIGNAL_AGAIN_SECONDS)
                    break
                self.signal_init(instance, HALT)
        await self.kill(instance)

    async def kill(self, instance: str) -> None:
        """End every process of it at once, and wait until the kernel has cleared them away."""
        pid = self._pid(instance)
        if self.is_running(instance) and pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        group = self.group(instance)
        if group is not None and group.exists():
            cgroups.kill_all(group)
        try:
            await _until(lambda: self._is_cleared(instance, group), KILL_SECONDS)
        except TimeoutError:
            raise Failed(f"{instance} does not die: a process of it hangs in the kernel") from None
        cable = interface(instance)
        if Path("/sys/class/net", cable).exists():
            await run("ip", "link", "delete", cable, check=False)
        if not self.under_systemd:
            cgroups.remove_groups(self._bridge, instance)

    def _is_cleared(self, instance: str, group: Path | None) -> bool:
        return not self.is_running(instance) and not (group is not None and cgroups.is_populated(group))

    async def running_groups(self) -> list[str]:
        """The instances of this cloud that have control groups, known or not."""
        if self.under_systemd:
            pattern = self._unit("i-*")
            listed = await run("systemctl", "list-units", "--all", "--plain", "--no-legend", pattern)
            units = [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]
            prefix = self._unit("").removesuffix(".service")
            return [unit.removesuffix(".service").removeprefix(prefix) for unit in units]
        root = cgroups.unified_root()
        folder = root / "relaunch" / self._bridge if root is not None else None
        if folder is None or not folder.exists():
            return []
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())

    async def remove_all_groups(self) -> None:
        """Take away the groups of this cloud, whose instances have ended."""
        if not self.under_systemd:
            cgroups.remove_groups(self._bridge)
            return
        root = cgroups.unified_root()
        slice_group = root / "relaunch.slice" if root is not None else None
        if slice_group is not None and slice_group.exists() and not any(slice_group.glob("*.service")):
            await run("systemctl", "stop", "relaunch.slice", check=False)


async def _until(is_so: Callable[[], bool], seconds: float) -> None:
    """Wait until it is so; TimeoutError after the time."""
    async with asyncio.timeout(seconds):
        pause = 0.005
        while not is_so():
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)


def missing_programs() -> list[str]:
    """Programs this module needs that are not installed."""
    return [
        name for name in ("systemd-nspawn", "setpriv", "unshare", "flock", "setsid", "ip") if not shutil.which(name)
    ]
