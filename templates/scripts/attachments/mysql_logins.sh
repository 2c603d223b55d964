#!/bin/bash
# Written by relaunch: attachment mysql_logins.sh of the scripts that make and change MySQL's accounts. Change it there.
#
# Which passwords an account takes: only a login tells, as MySQL keeps what cannot be compared. Meant to be sourced.
set -euo pipefail

quoted() {  # a string for SQL
  local value=${1//\\/\\\\}
  printf "'%s'" "${value//\'/\'\'}"
}

in_file() {  # a value for an option file
  local value=${1//\\/\\\\}
  printf '"%s"' "${value//\"/\\\"}"
}

# lets_in USER PASSWORD: whether this server does, over its own address and TLS, as a member of the group comes.
lets_in() {
  local login said
  login=$(mktemp)
  cat >"$login" <<FILE
[client]
host = $(relaunch-local get server.address)
user = $(in_file "$1")
password = $(in_file "$2")
connect-timeout = 10
ssl-mode = VERIFY_IDENTITY
ssl-ca = /etc/relaunch/tls/ca.crt
ssl-cert = /etc/relaunch/tls/server.crt
ssl-key = /etc/relaunch/tls/server.key
FILE
  said=$(mysql --defaults-extra-file="$login" -N -B -e "SELECT 1" 2>&1) || true
  rm -f "$login"
  case $said in
    1) return 0 ;;
    "ERROR 1045 "*) return 1 ;;
  esac
  echo "Whether $1 may log in cannot be told: $said" >&2
  exit 1
}
