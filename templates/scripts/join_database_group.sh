#!/bin/bash
# ---
# RightScript Name: Join database group
# Description: |-
#   The primary of a new group makes accounts and databases and starts to take writes. A replica copies the primary
#   and follows it. The primary of a group that has data already refuses to start empty.
# Inputs:
#   DB_USER:
#     Category: Database
#     Description: The app's login; it may work in the sites' databases only.
#     Input Type: single
#     Required: true
#     Default: text:app
#   DB_PASSWORD:
#     Category: Database
#     Description: Its password.
#     Input Type: single
#     Required: true
#   DB_NAME:
#     Category: Database
#     Description: One more database than the sites name.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   REPLICATION_PASSWORD:
#     Category: Database
#     Description: Replicas log in with it to follow and to copy the primary.
#     Input Type: single
#     Required: true
# ...
set -euo pipefail

joined=/var/lib/mysql/relaunch-group   # in the data directory: it lives and dies with the data
me=$(relaunch-local get server.name)
relaunch-local primary --wait 120 >/dev/null
database=$(relaunch-local get database)
group=$(jq -r .group <<<"$database")
primary=$(jq -r .primary.name <<<"$database")
primary_address=$(jq -r .primary.address <<<"$database")

quoted() {  # a string for SQL
  local value=${1//\\/\\\\}
  printf "'%s'" "${value//\'/\'\'}"
}

accounts() {  # the statements that make them, or bring them to the present passwords and sites
  local user password replication schema
  user=$(quoted "$DB_USER") password=$(quoted "$DB_PASSWORD") replication=$(quoted "$REPLICATION_PASSWORD")
  cat <<SQL
CREATE USER IF NOT EXISTS $user@'%';
ALTER USER $user@'%' IDENTIFIED BY $password REQUIRE SSL;
CREATE USER IF NOT EXISTS 'replication'@'%';
ALTER USER 'replication'@'%' IDENTIFIED BY $replication REQUIRE SSL;
GRANT REPLICATION SLAVE ON *.* TO 'replication'@'%';
CREATE USER IF NOT EXISTS 'seed'@'%';
ALTER USER 'seed'@'%' IDENTIFIED BY $replication REQUIRE SSL;
GRANT SELECT, RELOAD, SHOW VIEW, TRIGGER, EVENT, BINLOG MONITOR ON *.* TO 'seed'@'%';
SQL
  for schema in $(relaunch-local get sites | jq -r '.[].database // empty') ${DB_NAME:-}; do
    cat <<SQL
CREATE DATABASE IF NOT EXISTS \`$schema\` CHARACTER SET utf8mb4;
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES, LOCK TABLES,
  CREATE VIEW, SHOW VIEW, TRIGGER, EXECUTE ON \`$schema\`.* TO $user@'%';
SQL
  done
}

# Not when they are made already: a write waits for the replica, and a primary must come up without one.
ensure_accounts() {
  local wanted sum status=0
  wanted=$(accounts)
  sum=$(sha256sum <<<"$wanted")
  if [ "$(cat "$joined.accounts" 2>/dev/null)" = "$sum" ]; then return; fi
  timeout 60 mariadb <<<"$wanted" || status=$?
  if [ "$status" != 0 ]; then
    [ "$status" != 124 ] || echo "No replica acknowledged the accounts within 60 s (durability strict). Is one running?" >&2
    exit 1
  fi
  install -m 600 /dev/stdin "$joined.accounts" <<<"$sum"
}

become_primary() {
  if [ ! -e "$joined" ] && [ "$(jq -r .initialised <<<"$database")" = true ]; then
    echo "The group $group has data, and this server, its primary $me, has none. Nothing was done." >&2
    echo "Make a replica the primary, or restore a backup here." >&2
    exit 1
  fi
  if ! relaunch-local may-write >/dev/null; then
    echo "The controller does not confirm that $me is the primary now. It stays read-only." >&2
    exit 1
  fi
  ensure_accounts
  echo "$group" >"$joined"
  /usr/local/lib/relaunch/become-writable
  relaunch-local tag database=primary
}

at_primary() {  # PROGRAM ARGUMENTS…: a client of MariaDB, logged in at the primary over checked TLS
  local program=$1
  shift
  "$program" --defaults-extra-file=seed.cnf "$@"
}

wait_for_primary() {
  echo "Waiting until $primary is the primary"
  for _ in $(seq 120); do
    if relaunch-local peers --tag database=primary --wait 1 2>/dev/null | grep -q "^$primary "; then
      return
    fi
  done
  echo "$primary did not become the primary within 120 s. Look at its boot scripts." >&2
  exit 1
}

# A young group's binary log tells its whole history: following it from the start copies everything, and minds no
# migration running meanwhile. Its first event has the sequence number 1.
history_is_complete() {
  [ "$(mariadb -N -e "SELECT @@gtid_slave_pos = '' AND @@gtid_binlog_pos = ''")" = 1 ] &&
    [ "$(at_primary mariadb -N -e "SHOW BINARY LOGS" | awk '{bytes += $2} END {print bytes < 64 * 1024 * 1024}')" = 1 ] &&
    at_primary mariadb -N -e "SHOW BINLOG EVENTS IN 'binlog.000001' LIMIT 6" 2>/dev/null | grep -m 1 -o "GTID .*" | grep -q -- "-1$"
}

copy_primary() {
  local schemas
  schemas=$(at_primary mariadb -N -e "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN
    ('mysql', 'sys', 'information_schema', 'performance_schema')" | tr '\n' ' ')
  echo "Copying from $primary: accounts, $schemas"
  # Nothing of this goes into our own binary log: its history is the primary's.
  {
    echo "SET SESSION sql_log_bin = 0;"
    # shellcheck disable=SC2086  # names of databases, as separate words
    at_primary mariadb-dump --single-transaction --master-data=1 --gtid --routines --events --triggers --hex-blob \
      --add-drop-database --system=users --insert-ignore --databases $schemas
  } | mariadb
}

become_replica() {
  install -m 600 /dev/stdin seed.cnf <<FILE
[client]
host = $primary_address
user = seed
password = "$REPLICATION_PASSWORD"
ssl-ca = /etc/relaunch/tls/ca.crt
ssl-verify-server-cert = ON
FILE
  wait_for_primary
  mariadb -e "STOP ALL SLAVES" 2>/dev/null
  if [ ! -e "$joined" ] && ! history_is_complete; then copy_primary; fi
  mariadb <<SQL
CHANGE MASTER TO MASTER_HOST = '$primary_address', MASTER_PORT = 3306, MASTER_USER = 'replication',
  MASTER_PASSWORD = $(quoted "$REPLICATION_PASSWORD"), MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1,
  MASTER_HEARTBEAT_PERIOD = 1, MASTER_SSL = 1, MASTER_SSL_CA = '/etc/mysql/tls/ca.crt', MASTER_SSL_VERIFY_SERVER_CERT = 1;
START SLAVE;
SQL
  echo "$group" >"$joined"
  wait_until_caught_up
  relaunch-local tag database=replica
}

wait_until_caught_up() {
  local position status
  position=$(at_primary mariadb -N -e "SELECT @@gtid_binlog_pos")
  for _ in $(seq 300); do
    status=$(mariadb -e "SHOW SLAVE STATUS\G")
    if grep -q "Slave_IO_Running: Yes" <<<"$status" && grep -q "Slave_SQL_Running: Yes" <<<"$status" &&
      [ "$(mariadb -N -e "SELECT MASTER_GTID_WAIT('$position', 10)")" = 0 ]; then
      echo "Follows $primary ($primary_address), caught up with $position"
      return
    fi
    sleep 0.1
  done
  echo "Does not follow $primary after 30 s:" >&2
  grep -E "_Running:|Last_.*Error:" <<<"$status" >&2
  exit 1
}

if [ "$me" = "$primary" ]; then become_primary; else become_replica; fi
