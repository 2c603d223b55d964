from ipaddress import IPv4Network

from relaunch.clouds.cloud import IngressRule
from relaunch.clouds.local.firewall import Member, Wall, ruleset

EXPECTED = """\
table inet relaunch_rl_0 { }
delete table inet relaunch_rl_0
table inet relaunch_rl_0 {
	set group_0 {
		comment "shop-db"
		type ipv4_addr
		elements = { 198.18.0.3 }
	}
	set group_1 {
		comment "shop-web"
		type ipv4_addr
		elements = { 198.18.0.2, 198.18.0.3 }
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname != "rl-0" oifname != "rl-0" accept
		ct original ip saddr 198.18.0.0/16 ct original ip daddr != 198.18.0.0/16 accept
		ct original ip saddr @group_1 meta l4proto tcp ct original proto-dst 3306 ct original ip daddr @group_0 accept
		meta l4proto udp ct original proto-dst 80-90 ct original ip daddr @group_1 accept
		ct original ip saddr 10.0.0.0/8 meta l4proto icmp ct original ip daddr @group_1 accept
		ct state established meta l4proto tcp reject with tcp reset
		drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname != "rl-0" accept
		ct state established,related accept
		meta l4proto icmp accept
		meta l4proto { tcp, udp } th dport { 53, 7443 } accept
		reject
	}
	chain leaving {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 198.18.0.0/16 oifname != "rl-0" masquerade
	}
	chain output {
		type filter hook output priority filter; policy accept;
		oifname "rl-0" icmp type redirect drop
	}
}
table bridge relaunch_rl_0 { }
delete table bridge relaunch_rl_0
table bridge relaunch_rl_0 {
	chain between {
		type filter hook forward priority filter; policy accept;
		iifname "vb-i-*" oifname "vb-i-*" drop
	}
	chain from_instances {
		type filter hook prerouting priority filter; policy accept;
		iifname { "vb-i-0000000003" } drop
	}
	chain to_instances {
		type filter hook postrouting priority filter; policy accept;
		oifname { "vb-i-0000000003" } drop
	}
}
"""


def test_the_rules_as_a_whole() -> None:
    wall = Wall(
        bridge="rl-0",
        network=IPv4Network("198.18.0.0/16"),
        groups={
            "shop-web": [
                IngressRule(protocol="udp", from_port=80, to_port=90, source="0.0.0.0/0"),
                IngressRule(protocol="icmp", from_port=0, to_port=0, source="10.0.0.0/8"),
            ],
            "shop-db": [
                IngressRule(protocol="tcp", from_port=3306, to_port=3306, source="group:shop-web"),
                IngressRule(protocol="tcp", from_port=3306, to_port=3306, source="group:not-there-yet"),
            ],
        },
        members=[
            Member(address="198.18.0.3", interface="vb-i-0000000003", groups=("shop-web", "shop-db"), cut_off=True),
            Member(address="198.18.0.2", interface="vb-i-0000000002", groups=("shop-web",)),
        ],
        host_ports=(7443, 53),
    )

    assert ruleset(wall) == EXPECTED


def test_a_group_s_name_cannot_add_rules() -> None:
    name = 'x" accept\n}\n'

    text = ruleset(Wall(bridge="rl0", network=IPv4Network("198.18.0.0/16"), groups={name: []}, members=[]))

    assert '\t\tcomment "x_ accept___"\n' in text
