#!/bin/bash
# ---
# RightScript Name: Configure HAProxy
# Description: |-
#   Writes haproxy.cfg and starts HAProxy. Back ends and database listeners are the agent's, in relaunch.cfg:
#   they follow what is operational, without dropping a request.
# Inputs:
#   PROXY_SITES:
#     Category: HAProxy
#     Description: Whether this server takes the sites' requests, or has HAProxy only as its way to the database.
#     Input Type: single
#     Required: true
#     Advanced: true
#     Default: text:true
#     Possible Values:
#     - text:true
#     - text:false
# ...
set -euo pipefail

server=$(relaunch-local get server)
name=$(jq -r .name <<<"$server")
header="# Written by relaunch: template $(jq -r .template <<<"$server"), script configure_haproxy.sh, $name. Change the script, not this file."

# host name → back end. A host that is not listed gets the first site; a back end that is not there yet gives 503.
sites=$(relaunch-local get sites || echo '[]')
first_site=$(jq -r '.[0].name // "none"' <<<"$sites")
{
  echo "$header"
  jq -r '.[] | .name as $site | ([.canonical, .name] + .aliases | unique[]) + " site-" + $site' <<<"$sites"
} >/etc/haproxy/sites.map.new
mv -f /etc/haproxy/sites.map.new /etc/haproxy/sites.map

# HAProxy wants both files; the agent fills this one when it knows what belongs there.
[ -e /etc/haproxy/relaunch.cfg ] || echo "# The agent has not written back ends and listeners yet." >/etc/haproxy/relaunch.cfg

{
  cat <<FILE
$header
# The back ends and listeners are in relaunch.cfg, which the agent writes.

global
  log /dev/log local0 notice
  user haproxy
  group haproxy
  maxconn 4000
  stats socket /run/haproxy/admin.sock mode 660 level admin expose-fd listeners
  stats timeout 60s
  server-state-base /run/haproxy

defaults
  mode http
  log global
  option httplog
  option dontlognull
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  timeout queue 10s
  timeout check 2s
  timeout http-request 10s
  timeout http-keep-alive 60s
  # An app process that dies under a request: another one answers (for a POST see below).
  option redispatch 1
  retries 2
  retry-on conn-failure empty-response response-timeout 502 503

# Figures of this process: curl http://127.0.0.1:8404/stats
frontend stats
  bind 127.0.0.1:8404
  no log
  stats enable
  stats uri /stats
FILE
  if [ "$PROXY_SITES" = true ]; then
    cat <<FILE

# Apache hands over here what is no static file. A POST is not tried again: done twice is worse than failed.
frontend sites
  bind 127.0.0.1:8080
  http-request disable-l7-retry unless { method GET HEAD OPTIONS }
  use_backend %[req.hdr(host),host_only,lower,map(/etc/haproxy/sites.map,site-$first_site)]
FILE
  fi
} >/etc/haproxy/haproxy.cfg.new
mv -f /etc/haproxy/haproxy.cfg.new /etc/haproxy/haproxy.cfg

if systemctl is-active --quiet haproxy; then
  systemctl reload haproxy
  echo "HAProxy reloaded."
else
  systemctl start haproxy
  echo "HAProxy started."
fi
[ "$PROXY_SITES" = true ] && echo "Sites: $(jq -r '[.[].name] | join(", ")' <<<"$sites")"
exit 0
