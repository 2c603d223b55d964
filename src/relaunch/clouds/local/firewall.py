"""Security groups as nftables rules: one pure function from the groups to the text that nft loads in one transaction.

Every packet between instances passes the host's forward chain, because the bridge itself lets no frame through from
port to port (see network.py). What may pass is decided by the *original* direction of its connection, for each packet
anew: so a rule that is taken away ends established connections too, without a tool that deletes them from the kernel's
table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from relaunch.clouds.cloud import IngressRule
from relaunch.errors import BadInput, Failed
from relaunch.shell import last_lines, run

PROTOCOLS = ("tcp", "udp", "icmp", "all")
FAMILIES = ("inet", "bridge")
GROUP = "group:"
CABLE = "vb-i-"  # how the host's end of every instance's cable begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What the firewall has to know of an instance."""

    address: str
    interface: str  # the host's end of its cable
    groups: tuple[str, ...]
    cut_off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """Everything the rules are made from. `host_ports` None: instances reach every port of the host."""

    bridge: str
    network: IPv4Network
    groups: Mapping[str, Sequence[IngressRule]]
    members: Sequence[Member]
    host_ports: tuple[int, ...] | None = None

    @property
    def table(self) -> str:
        return table_of(self.bridge)


def table_of(bridge: str) -> str:
    """The name of both tables of a bridge's rules."""
    return f"relaunch_{bridge.replace('-', '_')}"


def check_rule(rule: IngressRule) -> None:
    """BadInput says what is wrong with a rule."""
    if rule.protocol not in PROTOCOLS:
        raise BadInput(f"unknown protocol {rule.protocol!r} in a security rule", hint=f"one of {', '.join(PROTOCOLS)}")
    if rule.protocol in ("tcp", "udp") and not 0 < rule.from_port <= rule.to_port < 65536:
        raise BadInput(f"ports {rule.from_port}-{rule.to_port} are not a range within 1-65535")
    if rule.source.startswith(GROUP):
        if not rule.source.removeprefix(GROUP):
            raise BadInput("a rule's source names no group", hint="write group:NAME")
        return
    try:
        IPv4Network(rule.source)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise BadInput(
            f"{rule.source!r} is no source of a rule: {error}", hint="an IPv4 CIDR as 10.0.0.0/8, or group:NAME"
        ) from None


def ruleset(wall: Wall) -> str:
    """The whole text for `nft -f -`: replaces both tables at once, no packet passes in between."""
    names = {name: f"group_{index}" for index, name in enumerate(sorted(wall.groups))}
    return "\n".join(
        [
            *_replaced("inet", wall.table),
            f"table inet {wall.table} {{",
            *(line for name in sorted(wall.groups) for line in _group_set(wall, name, names[name])),
            *_forward(wall, names),
            *_input(wall),
            *_nat(wall),
            "}",
            *_replaced("bridge", wall.table),
            f"table bridge {wall.table} {{",
            *_cut_off(wall),
            "}",
            "",
        ]
    )


def _replaced(family: str, table: str) -> list[str]:
    return [f"table {family} {table} {{ }}", f"delete table {family} {table}"]


def _group_set(wall: Wall, name: str, set_name: str) -> list[str]:
    addresses = sorted({member.address for member in wall.members if name in member.groups})
    elements = [f"\t\telements = {{ {', '.join(addresses)} }}"] if addresses else []
    return [
        f"\tset {set_name} {{",
        f'\t\tcomment "{_comment(name)}"',
        "\t\ttype ipv4_addr",
        *elements,
        "\t}",
    ]


def _comment(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_./: " else "_" for letter in name)[:60]


def _forward(wall: Wall, names: Mapping[str, str]) -> list[str]:
    allowed = [
        f"\t\t{_match(rule, names)}ct original ip daddr @{names[group]} accept"
        for group in sorted(wall.groups)
        for rule in wall.groups[group]
        if not rule.source.startswith(GROUP) or rule.source.removeprefix(GROUP) in names
    ]
    return [
        "\tchain forward {",
        "\t\ttype filter hook forward priority filter; policy accept;",
        f'\t\tiifname != "{wall.bridge}" oifname != "{wall.bridge}" accept',
        f"\t\tct original ip saddr {wall.network} ct original ip daddr != {wall.network} accept",
        *allowed,
        "\t\tct state established meta l4proto tcp reject with tcp reset",
        "\t\tdrop",
        "\t}",
    ]


def _match(rule: IngressRule, names: Mapping[str, str]) -> str:
    """The part of an nft rule that says protocol, ports and source; ends in a blank."""
    if rule.source.startswith(GROUP):
        source = f"ct original ip saddr @{names[rule.source.removeprefix(GROUP)]} "
    elif IPv4Network(rule.source).prefixlen == 0:
        source = ""
    else:
        source = f"ct original ip saddr {rule.source} "
    if rule.protocol == "all":
        return source
    if rule.protocol == "icmp":
        return f"{source}meta l4proto icmp "
    ports = str(rule.from_port) if rule.from_port == rule.to_port else f"{rule.from_port}-{rule.to_port}"
    return f"{source}meta l4proto {rule.protocol} ct original proto-dst {ports} "


def _input(wall: Wall) -> list[str]:
    if wall.host_ports is None:
        allowed = ["\t\tmeta l4proto { tcp, udp } accept"]
    else:
        ports = ", ".join(str(port) for port in sorted(wall.host_ports))
        allowed = [f"\t\tmeta l4proto {{ tcp, udp }} th dport {{ {ports} }} accept"] if ports else []
    return [
        "\tchain input {",
        "\t\ttype filter hook input priority filter; policy accept;",
        f'\t\tiifname != "{wall.bridge}" accept',
        "\t\tct state established,related accept",
        "\t\tmeta l4proto icmp accept",
        *allowed,
        "\t\treject",
        "\t}",
    ]


def _nat(wall: Wall) -> list[str]:
    return [
        "\tchain leaving {",
        "\t\ttype nat hook postrouting priority srcnat; policy accept;",
        f'\t\tip saddr {wall.network} oifname != "{wall.bridge}" masquerade',
        "\t}",
        "\tchain output {",
        "\t\ttype filter hook output priority filter; policy accept;",
        f'\t\toifname "{wall.bridge}" icmp type redirect drop',
        "\t}",
    ]


def _cut_off(wall: Wall) -> list[str]:
    cut = ", ".join(f'"{member.interface}"' for member in wall.members if member.cut_off)
    return [
        "\tchain between {",
        "\t\ttype filter hook forward priority filter; policy accept;",
        f'\t\tiifname "{CABLE}*" oifname "{CABLE}*" drop',
        "\t}",
        "\tchain from_instances {",
        "\t\ttype filter hook prerouting priority filter; policy accept;",
        *([f"\t\tiifname {{ {cut} }} drop"] if cut else []),
        "\t}",
        "\tchain to_instances {",
        "\t\ttype filter hook postrouting priority filter; policy accept;",
        *([f"\t\toifname {{ {cut} }} drop"] if cut else []),
        "\t}",
    ]


async def put_up(wall: Wall) -> None:
    """Bring the kernel to these rules, whatever stood there before."""
    done = await run("nft", "-f", "-", input=ruleset(wall), check=False)
    if done.status < 0:
        # nft reads all tables first, and version 1.0.6 was seen to crash reading ours; deleting it needs no reading.
        await take_down(wall.bridge)
        done = await run("nft", "-f", "-", input=ruleset(wall))
    if done.status != 0:
        raise Failed("nftables refused the rules of the local cloud", hint=last_lines(done.stderr))


async def take_down(bridge: str) -> None:
    """Remove both tables of this bridge; gone already is no error."""
    table = table_of(bridge)
    for family in FAMILIES:
        done = await run("nft", "delete", "table", family, table, check=False)
        if done.status != 0 and "No such file" not in done.stderr:
            raise Failed(f"the nft table {family} {table} could not be deleted", hint=last_lines(done.stderr))


async def stands(bridge: str) -> bool:
    """Whether the kernel has both tables of this bridge; only names are read."""
    listed = (await run("nft", "list", "tables")).stdout.splitlines()
    return all(f"table {family} {table_of(bridge)}" in listed for family in FAMILIES)
