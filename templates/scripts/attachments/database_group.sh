#!/bin/bash
# Written by relaunch: attachment database_group.sh of the scripts that join a database group. Change it there.
#
# What joining a group is in every dialect; meant to be sourced by a script that sets:
#   client    the command that runs SQL here as root, with all rights
#   accounts  a function that prints the statements which make the accounts
#   passwords a function that prints the statements which bring them to the present passwords, if any are needed
# shellcheck disable=SC2154,SC2034
set -euo pipefail

joined=/var/lib/mysql/relaunch-group   # in the data directory: it lives and dies with the data
me=$(relaunch-local get server.name)

look_again() {  # who leads may change while this script waits
  local view
  view=$(relaunch-local get database) || return
  database=$view
  group=$(jq -r .group <<<"$view")
  primary=$(jq -r .primary.name <<<"$view")
  primary_address=$(jq -r .primary.address <<<"$view")
}

relaunch-local primary --wait 120 >/dev/null
look_again

quoted() {  # a string for SQL
  local value=${1//\\/\\\\}
  printf "'%s'" "${value//\'/\'\'}"
}

issuer() { openssl x509 -noout -issuer -nameopt compat -in /etc/relaunch/tls/server.crt | sed 's/^issuer= *//'; }

# Not when they are made already: a write waits for the replica, and a primary must come up without one.
ensure_accounts() {
  local wanted sum changes status=0
  wanted=$(accounts)
  sum=$(sha256sum <<<"$wanted")
  if [ "$(cat "$joined.accounts" 2>/dev/null)" = "$sum" ]; then return; fi
  timeout 60 "$client" <<<"$wanted" || status=$?
  if [ "$status" = 0 ]; then
    changes=$(passwords)
    timeout 60 "$client" <<<"$changes" || status=$?
  fi
  if [ "$status" != 0 ]; then
    [ "$status" != 124 ] || echo "No replica acknowledged the accounts within 60 s (durability strict). Is one running?" >&2
    exit 1
  fi
  install -m 600 /dev/stdin "$joined.accounts" <<<"$sum"
}

refuse_to_start_empty() {
  if [ ! -e "$joined" ] && [ "$(jq -r .initialised <<<"$database")" = true ]; then
    echo "The group $group has data, and this server, its primary $me, has none. Nothing was done." >&2
    echo "Make a replica the primary, or restore a backup here." >&2
    exit 1
  fi
}

be_a_member() {  # from here on the agent takes the roles that the controller gives
  # Not as an argument, which all who are on this server can see.
  PASSWORD=$REPLICATION_PASSWORD jq -n '{user: "replication", password: env.PASSWORD, ca: "/etc/mysql/tls/ca.crt", port: 3306}' |
    install -m 600 /dev/stdin /etc/relaunch/replication.json.new
  mv -f /etc/relaunch/replication.json.new /etc/relaunch/replication.json
  echo "$group" >"$joined"
}

wait_for_role() {  # prints primary or replica
  if ! relaunch-local role --wait 120; then
    echo "The controller gave no role, or it could not be taken. What the agent says:" >&2
    journalctl -u relaunch-agent -n 5 -o cat >&2
    return 1
  fi
}
