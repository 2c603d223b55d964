#!/bin/sh
# User data of a relaunch instance: brings relaunch's agent here, whole and verified, and starts it.
# Written by the controller at {controller_url}; running it again does no harm. Log: journalctl -u relaunch-agent
set -eu

controller='{controller_url}'
token='{token}'
agent_sha256='{agent_sha256}'

say() {{ echo "relaunch bootstrap: $*" >&2; }}
umask 022
mkdir -p /opt/relaunch /etc/relaunch /usr/local/bin

cat >/etc/relaunch/controller-ca.crt <<'CERTIFICATE'
{ca_pem}
CERTIFICATE

# Try a command a few times, with a growing pause.
persistently() {{
    for pause in 1 2 4 8 16 0; do
        "$@" && return 0
        sleep "$pause"
    done
    say "gave up: $*"
    return 1
}}

is_the_agent() {{ [ "$(sha256sum "$1" 2>/dev/null | cut -d' ' -f1)" = "$agent_sha256" ]; }}

fetch_agent() {{
    curl --silent --show-error --fail --cacert /etc/relaunch/controller-ca.crt --connect-timeout 5 --max-time 60 \
        --output /opt/relaunch/.fetched.pyz "$controller/api/v1/agent/relaunch-agent.pyz" &&
        is_the_agent /opt/relaunch/.fetched.pyz &&
        mv /opt/relaunch/.fetched.pyz /opt/relaunch/relaunch-agent.pyz
}}

install_missing() {{
    apt-get -q -y update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "$@"
}}

# An image made of an earlier instance carries the agent, and what it needs, already.
if ! is_the_agent /opt/relaunch/relaunch-agent.pyz; then
    missing=''
    python3 -c 'import asyncio, ssl' 2>/dev/null || missing='python3'
    command -v curl >/dev/null || missing="$missing curl"
    # shellcheck disable=SC2086 # words on purpose
    [ -z "$missing" ] || persistently install_missing $missing
    persistently fetch_agent
    chmod 0755 /opt/relaunch/relaunch-agent.pyz
fi

# An upgrade that keeps dying before it says anything is undone here, outside of the new program.
cat >/opt/relaunch/before-agent.sh <<'SCRIPT'
#!/bin/sh
# Run by relaunch-agent.service before each start. A new agent gets three starts to prove itself.
pending=/var/lib/relaunch/agent/upgrade-pending
[ -e "$pending" ] || exit 0
echo start >>"$pending.starts"
[ "$(wc -l <"$pending.starts")" -gt 3 ] || exit 0
if [ -e /opt/relaunch/relaunch-agent.previous.pyz ]; then
    mv "$pending" /var/lib/relaunch/agent/upgrade-failed
    mv /opt/relaunch/relaunch-agent.previous.pyz /opt/relaunch/relaunch-agent.pyz
fi
rm -f "$pending" "$pending.starts"
SCRIPT

unit=/etc/systemd/system/relaunch-agent.service
cat >"$unit.new" <<'UNIT'
[Unit]
Description=relaunch's agent: runs scripts for the controller and keeps this server as it wants it
After=network.target
ConditionPathExists=/etc/relaunch/agent.json
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
TimeoutStartSec=infinity
ExecStartPre=/bin/sh /opt/relaunch/before-agent.sh
ExecStart=/usr/bin/python3 -IS /opt/relaunch/relaunch-agent.pyz
Restart=always
RestartSec=200ms
# 78: it has left for good, or was never told of a controller.
RestartPreventExitStatus=78
SuccessExitStatus=78
# Scripts that run, and daemons they started, outlive a restart or an upgrade of the agent.
KillMode=process
OOMScoreAdjust=-800
Environment=LANG=C.UTF-8
# The threads that watch databases would each keep memory of their own; what was large and is free goes back at once.
Environment=MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=131072 MALLOC_TRIM_THRESHOLD_=131072

[Install]
WantedBy=multi-user.target
UNIT

(
    umask 077
    cat >/etc/relaunch/agent.json <<CONFIG
{{"controller_url": "$controller", "token": "$token", "ca_file": "/etc/relaunch/controller-ca.crt"}}
CONFIG
)

if cmp -s "$unit.new" "$unit"; then
    rm "$unit.new"
else
    mv "$unit.new" "$unit"
    mkdir -p /etc/systemd/system/multi-user.target.wants
    ln -sf ../relaunch-agent.service /etc/systemd/system/multi-user.target.wants/relaunch-agent.service
    systemctl daemon-reload
fi
systemctl start --no-block relaunch-agent.service
