#!/bin/bash
# ---
# RightScript Name: Configure base
# Description: Says at every login which server this is and where its scripts and logs are.
# Inputs: {}
# ...
set -euo pipefail

server=$(relaunch-local get server)
name=$(jq -r .name <<<"$server")
deployment=$(jq -r .deployment <<<"$server")
template=$(jq -r .template <<<"$server")
address=$(jq -r .address <<<"$server")

cat >/etc/motd <<MOTD
# Written by relaunch: template $template, script configure_base.sh, $name. Change the script, not this file.

  $deployment/$name   template $template   zone $(jq -r .zone <<<"$server")   $address

  what this server knows of the others    relaunch-local peers, relaunch-local get sites
  what its scripts said                   journalctl -u relaunch-agent, or: relaunch server log $deployment/$name
  generated files                         their first line names the script that wrote them
MOTD
echo "Login message says: $deployment/$name, template $template, $address"
