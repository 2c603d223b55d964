from ipaddress import IPv4Network

import pytest

from relaunch.clouds.local.network import collision, fixed_mac, free_address
from relaunch.errors import Conflict

NETWORK = IPv4Network("198.18.0.0/29")


def test_the_lowest_free_address_is_given_but_not_one_just_freed() -> None:
    assert free_address(NETWORK, taken=()) == "198.18.0.2"
    assert free_address(NETWORK, taken={"198.18.0.2"}) == "198.18.0.3"
    assert free_address(NETWORK, taken={"198.18.0.2"}, lately={"198.18.0.3"}) == "198.18.0.4"


def test_one_just_freed_is_given_rather_than_none() -> None:
    lately = {f"198.18.0.{number}" for number in range(2, 7)}

    assert free_address(NETWORK, taken={"198.18.0.2"}, lately=lately) == "198.18.0.3"


def test_a_full_range_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="no address is left"):
        free_address(NETWORK, taken={f"198.18.0.{number}" for number in range(2, 7)})


@pytest.mark.parametrize(
    ("route", "collides"),
    [
        ({"dst": "198.18.0.0/15", "dev": "tun0"}, "198.18.0.0/15 dev tun0"),
        ({"dst": "198.18.0.4", "dev": "eth0", "type": "local"}, "198.18.0.4 dev eth0"),
        ({"dst": "198.18.0.0/29", "type": "blackhole"}, "198.18.0.0/29 dev -"),
        ({"dst": "198.18.0.0/29", "dev": "rl0"}, None),
        ({"dst": "default", "dev": "eth0"}, None),
        ({"dst": "10.0.0.0/8", "dev": "eth0"}, None),
        ({"dst": "198.18.0.7", "dev": "eth0", "type": "broadcast"}, None),
    ],
)
def test_a_route_of_someone_else_in_the_range_collides(route: dict[str, str], collides: str | None) -> None:
    assert collision(NETWORK, "rl0", [route]) == collides


def test_a_bridge_s_address_is_its_own_and_always_the_same() -> None:
    assert fixed_mac("rl0") == fixed_mac("rl0") != fixed_mac("rl1")
    assert int(fixed_mac("rl0").split(":")[0], 16) & 0b11 == 0b10, "locally administered, for one"
