"""Security groups: one per deployment and template, from the ports its template opens; and the one for set-aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relaunch.clouds.cloud import IngressRule
from relaunch.servers.ports import Ports
from relaunch.servers.templates import Ingress, ServerTemplate

QUARANTINE = "relaunch-quarantine"
BAKE = "relaunch-bake"
SSH_PORT = 22


def group_name(deployment: str, template: str) -> str:
    return f"{deployment}-{template}"


def rules_for(deployment: str, templates: Sequence[ServerTemplate], host: str) -> dict[str, tuple[IngressRule, ...]]:
    """The groups of a deployment that has servers of these templates."""
    groups = [group_name(deployment, template.name) for template in templates]
    return {
        group_name(deployment, template.name): tuple(
            IngressRule(protocol=opened.protocol, from_port=opened.port, to_port=opened.port, source=source)
            for opened in template.ingress
            for source in _sources(opened, deployment, groups, host)
        )
        for template in templates
    }


def _sources(opened: Ingress, deployment: str, groups: Sequence[str], host: str) -> list[str]:
    if opened.source.startswith("template:"):
        wanted = group_name(deployment, opened.source.removeprefix("template:"))
        return [f"group:{wanted}"] if wanted in groups else []
    known = {"any": ["0.0.0.0/0"], "host": [host], "deployment": [f"group:{group}" for group in groups]}
    return known.get(opened.source, [opened.source])


def host_only(host: str) -> tuple[IngressRule, ...]:
    """Nothing but a shell from the host."""
    return (IngressRule(protocol="tcp", from_port=SSH_PORT, to_port=SSH_PORT, source=host),)


async def set_groups(ports: Ports, wanted: Mapping[str, Sequence[IngressRule]]) -> None:
    """Bring the cloud's groups to these; what is so already is left alone. Empty ones first: rules name each other."""
    present = await ports.cloud.security_groups()
    missing = [name for name in wanted if name not in present]
    for name in missing if len(missing) > 1 else ():
        await ports.cloud.set_security_group(name, ())
    for name, rules in wanted.items():
        if present.get(name) != tuple(rules):
            await ports.cloud.set_security_group(name, tuple(rules))
