#!/bin/bash
# ---
# RightScript Name: Join database group
# Description: |-
#   A replica follows a young group from the start, or else copies another server's files: of a replica that can be
#   spared, or of the primary. Then the controller is told that this server's data is the group's, the agent takes the
#   role that the controller gives, and on the primary accounts and databases are made. The primary of a group that has
#   data already refuses to start empty.
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
# Attachments:
# - group_names.sh
# - table_history.sh
# - schema_names.py
# - take_seed.py
# ...
set -euo pipefail
# shellcheck source=attachments/group_names.sh disable=SC1091
. "$RS_ATTACH_DIR/group_names.sh"
# shellcheck source=attachments/table_history.sh disable=SC1091
. "$RS_ATTACH_DIR/table_history.sh"

data=$(realpath /var/lib/mysql) # which is a link where the data lies on a volume
joined=$data/relaunch-group   # in the data directory: it lives and dies with the data
seeded=$data/relaunch-seed    # whose files these are, and at which position
half=$data/relaunch-rows      # a copy of rows has begun, and has not ended
IN_VAIN=64  # a status that no program here ends with: no use to try again
copying=$data-seeding   # beside the data: putting it in place is a rename
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

in_file() {  # a value for an option file
  local value=${1//\\/\\\\}
  printf '"%s"' "${value//\"/\\\"}"
}

issuer() { openssl x509 -noout -issuer -nameopt compat -in /etc/relaunch/tls/server.crt | sed 's/^issuer= *//'; }

# Nothing while it is accepted already: two are while passwords are changed, and neither may be lost then. By its hash, as
# the statement goes into the binary log as it is.
has_password() {  # USER PASSWORD, as SQL: the statements that make it so
  cat <<SQL
SET @make = IF(EXISTS (SELECT 1 FROM mysql.global_priv WHERE User = $1 AND Host = '%'
  AND Priv LIKE CONCAT('%', PASSWORD($2), '%')), 'DO 0',
  CONCAT('ALTER USER ', QUOTE($1), '@''%'' IDENTIFIED BY PASSWORD ', QUOTE(PASSWORD($2)), ' REQUIRE SSL'));
EXECUTE IMMEDIATE @make;
SQL
}

accounts() {  # the statements that make them, or bring them to the present passwords and sites
  local user password replication schema
  user=$(quoted "$DB_USER") password=$(quoted "$DB_PASSWORD") replication=$(quoted "$REPLICATION_PASSWORD")
  cat <<SQL
CREATE USER IF NOT EXISTS $user@'%';
$(has_password "$user" "$password")
CREATE USER IF NOT EXISTS 'replication'@'%';
$(has_password "'replication'" "$replication")
GRANT REPLICATION SLAVE ON *.* TO 'replication'@'%';
CREATE USER IF NOT EXISTS 'seed'@'%';
$(has_password "'seed'" "$replication")
GRANT SELECT, RELOAD, SHOW VIEW, TRIGGER, EVENT, BINLOG MONITOR ON *.* TO 'seed'@'%';
-- Other servers of the deployment look whether this one answers: their certificate is what lets them in.
CREATE USER IF NOT EXISTS 'relaunch_probe'@'%';
ALTER USER 'relaunch_probe'@'%' REQUIRE ISSUER $(quoted "$(issuer)");
CREATE DATABASE IF NOT EXISTS relaunch CHARACTER SET utf8mb4;
CREATE TABLE IF NOT EXISTS relaunch.heartbeat (
  server_id INT UNSIGNED PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL, at DATETIME(3) NOT NULL) ENGINE = InnoDB;
GRANT SELECT ON relaunch.heartbeat TO 'relaunch_probe'@'%';
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

refuse_to_start_empty() {
  if [ ! -e "$joined" ] && [ "$(jq -r .initialised <<<"$database")" = true ]; then
    echo "The group $group has data, and this server, its primary $me, has none. Nothing was done." >&2
    echo "Make a replica the primary, or restore a backup here." >&2
    exit 1
  fi
}

at_primary() {  # PROGRAM ARGUMENTS…: a client of MariaDB, logged in at the primary over checked TLS
  local program=$1
  shift
  "$program" --defaults-extra-file=seed.cnf --host="$primary_address" "$@"
}

log_in() {
  install -m 600 /dev/stdin seed.cnf <<FILE
[client]
user = seed
password = $(in_file "$REPLICATION_PASSWORD")
ssl-ca = /etc/relaunch/tls/ca.crt
ssl-verify-server-cert = ON
# Not of mariadb-dump, which does not know it.
[mariadb-client]
connect-timeout = 5
FILE
}

wait_for_primary() {
  local said end=$((SECONDS + 120)) waited=""
  while [ "$SECONDS" -lt "$end" ]; do
    look_again || true
    [ "$waited" = "$primary" ] || echo "Waiting until $primary takes writes"
    waited=$primary
    said=$(at_primary mariadb -N -e "SELECT @@read_only" 2>&1) || true
    [ "$said" != 0 ] || return 0
    sleep 0.5
  done
  echo "$primary does not take writes after 120 s: $said" >&2
  exit 1
}

series() { grep -oE '[0-9]+\.[0-9]+' | head -n 1; }

refuse_another_version() {
  local theirs mine
  theirs=$(at_primary mariadb -N -e "SELECT VERSION()")
  mine=$(mariadbd --version | sed 's/.*Ver //')
  if [ "$(series <<<"$theirs")" != "$(series <<<"$mine")" ]; then
    echo "$primary runs MariaDB $theirs, this server ${mine%% *}: it cannot become its replica. Nothing was copied." >&2
    echo "Launch it from an image with MariaDB $(series <<<"$theirs")." >&2
    exit 1
  fi
}

# Files first, from whoever can give them best; do they not come now, they are waited for. Rows only where the primary
# has never opened the port they come from, and nobody else gives them. Status IN_VAIN: now and later.
copy_data() {
  local replicas status=0 empty=()
  if [ ! -e "$seeded" ] && [ ! -e "$half" ] && systemctl is-active --quiet mariadb &&
    [ "$(mariadb -N -e "SELECT @@gtid_slave_pos = '' AND @@gtid_binlog_pos = ''")" = 1 ]; then
    empty=(--empty)
  fi
  mapfile -t replicas < <(jq -r --arg me "$me" '.replicas[] | select(.name != $me) | "\(.name)=\(.address)"' <<<"$database")
  committed=$(committed_there)
  python3 "$RS_ATTACH_DIR/take_seed.py" "${empty[@]}" "$copying" seed.json "$primary=$primary_address" "${replicas[@]}" ||
    status=$?
  case $status in
    0) put_in_place ;;
    1) copy_rows ;;
    3) return ;;
    2) exit $IN_VAIN ;;
    *) exit 1 ;;
  esac
}

put_in_place() {
  local memory gtid stopping noted begun=$SECONDS
  systemctl stop mariadb &
  stopping=$!
  memory=$(my_print_defaults --mariadbd | sed -n 's/^--innodb[-_]buffer[-_]pool[-_]size=//p' | tail -n 1)
  # Through the system's cache, where what was copied still is; all of it is on disk before it is put in place.
  if ! mariadb-backup --prepare --use-memory="${memory:-128M}" --innodb-flush-method=fsync --target-dir="$copying" \
    >prepare.log 2>&1 ||
    ! grep -q "completed OK!" prepare.log; then
    tail -n 15 prepare.log >&2
    echo "What was copied could not be prepared. Run this again: it begins anew." >&2
    exit 1
  fi
  gtid=$(position_of_copy)
  wait "$stopping"
  chown -R mysql:mysql "$copying"
  [ "$(jq .gtid seed.json)" != null ] || take_back_unacknowledged
  mv seed.json "$copying/${seeded##*/}"
  sync -f "$copying"   # what is acknowledged here must not rest on files that a power cut undoes
  [ ! -e "$joined" ] || { echo "$data holds data of group $(cat "$joined"): it is left alone." >&2; exit 1; }
  find "$data" -mindepth 1 -delete
  find "$copying" -mindepth 1 -maxdepth 1 -exec mv -t "$data" {} +
  rmdir "$copying"
  systemctl start mariadb
  # InnoDB goes on to note the giver's place in its binary log until our own places come after it, by number.
  noted=$(cat "$data"/*_binlog_pos_innodb 2>/dev/null | sed -n '1s/.*\.0*\([0-9]\+\)[[:space:]].*/\1/p' || true)
  mariadb -e "RESET MASTER TO $((${noted:-0} + 1)); SET GLOBAL gtid_slave_pos = '$gtid'"
  echo "Prepared and in place after $((SECONDS - begun)) s, position $gtid"
}

# Up to where the primary's rows are committed, without what waits for an acknowledgement. InnoDB's own note of that is
# not asked: data that was copied or restored brings the notes of another server's log.
committed_there() {
  at_primary mariadb -N -e "START TRANSACTION WITH CONSISTENT SNAPSHOT; SELECT BINLOG_GTID_POS(
    (SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'BINLOG_SNAPSHOT_FILE'),
    (SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'BINLOG_SNAPSHOT_POSITION'))"
}

# As the giver said; from a primary that could not be locked, as its commits wait, where it stood before and after.
position_of_copy() {
  local gtid
  gtid=$(jq -r '.gtid // ""' seed.json)
  if [ -z "$gtid" ]; then
    gtid=$(committed_there)
    if [ "$(jq -r .address seed.json)" != "$primary_address" ] || [ "$gtid" != "$committed" ]; then
      echo "Something was committed while it was copied ($committed, then $gtid). Run this again: it begins anew." >&2
      exit 1
    fi
  fi
  [[ $gtid =~ ^[0-9]+-[0-9]+-[0-9]+(,[0-9]+-[0-9]+-[0-9]+)*$ ]] || { echo "The copy's position is not known: $gtid" >&2; exit 1; }
  echo "$gtid"
}

# Commits that waited for a replica are in the copy, prepared: they are taken back here, and come by replication.
take_back_unacknowledged() {
  # It ends with an error in any case: that is how MariaDB asks to be started without this option.
  mariadbd --defaults-file="$copying/backup-my.cnf" --user=mysql --datadir="$copying" --skip-networking \
    --socket="$PWD/socket" --pid-file="$copying/pid" --log-bin=none --tc-heuristic-recover=ROLLBACK >prepare.log 2>&1 || true
  if ! grep -q "restart without --tc-heuristic-recover" prepare.log; then
    tail -n 15 prepare.log >&2
    echo "What was copied cannot be brought to a position. Run this again: it begins anew." >&2
    exit 1
  fi
  rm -f "$copying"/none.*
}

copy_rows() {
  local schemas history
  rm -rf "$copying"
  if ! systemctl is-active --quiet mariadb; then
    find "$data" -mindepth 1 -delete
    mariadb-install-db --user=mysql --auth-root-authentication-method=socket --skip-test-db --force --skip-name-resolve >/dev/null
    systemctl start mariadb
  fi
  schemas=$(at_primary mariadb -N -e "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN
    ('mysql', 'sys', 'information_schema', 'performance_schema', 'relaunch_trial')" | tr '\n' ' ')
  history=$(history_words "table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')" "" at_primary mariadb -N -e)
  refuse_endless "event_schema NOT IN ('mysql', 'sys')" at_primary mariadb -N -e
  echo "Copying row by row from $primary: accounts, $schemas"
  touch "$half"
  # Nothing of this goes into our own binary log: its history is the primary's.
  {
    echo "SET SESSION sql_log_bin = 0;"
    # shellcheck disable=SC2086  # options and names of databases, as separate words
    at_primary mariadb-dump --single-transaction --master-data=1 --gtid --routines --events --triggers --hex-blob $history \
      --max-allowed-packet=1G --add-drop-database --system=users --insert-ignore --databases $schemas
  } | python3 "$RS_ATTACH_DIR/schema_names.py" "" | mariadb --binary-mode --comments --max-allowed-packet=1G
  rm "$half"
}

seed() {
  local status
  log_in
  if [ -e "$joined" ]; then return; fi # it follows its primary once that is there, however late after a loss of power
  for _ in $(seq 5); do
    wait_for_primary
    refuse_another_version
    # What a turn before has put in place, and was not come to its end with, takes room.
    if [ -e "$seeded" ] && ! systemctl is-active --quiet mariadb; then find "$data" -mindepth 1 -delete; fi
    # Of its own shell, so that the first command that fails ends this turn, and no more than that.
    set +e
    (set -e; copy_data)
    status=$?
    set -e
    case $status in
      0) return ;;
      "$IN_VAIN") exit 1 ;;
    esac
    echo "The group's data is not here yet. Once more in 10 s."
    sleep 10
  done
  echo "The group's data could not be copied. Run this again: it begins anew." >&2
  exit 1
}

take_role() {
  local role
  # The agent's, for following whoever is the primary.
  # Not as an argument, which all who are on this server can see.
  PASSWORD=$REPLICATION_PASSWORD jq -n '{user: "replication", password: env.PASSWORD, ca: "/etc/mysql/tls/ca.crt", port: 3306}' |
    install -m 600 /dev/stdin /etc/relaunch/replication.json.new
  mv -f /etc/relaunch/replication.json.new /etc/relaunch/replication.json
  echo "$group" >"$joined"
  if ! role=$(relaunch-local role --wait 120); then
    echo "The controller gave no role, or it could not be taken. What the agent says:" >&2
    journalctl -u relaunch-agent -n 5 -o cat >&2
    mariadb -e "SHOW SLAVE STATUS\G" | grep -E "_Running:|Last_.*Error:" >&2
    exit 1
  fi
  echo "Role: $role"
  case $role in
    primary) ensure_accounts ;;
    replica) wait_until_caught_up ;;
  esac
  relaunch-local tag "database=$role"
}

wait_until_caught_up() {
  local position="" of="" end=$((SECONDS + 300))
  if [ ! -e seed.cnf ]; then return; fi
  while [ "$SECONDS" -lt "$end" ]; do
    look_again || true
    if [ "$of" != "$primary_address" ]; then  # what a former primary had, this one may never have
      of=""
      position=$(at_primary mariadb -N -e "SELECT @@gtid_binlog_pos") && of=$primary_address
    fi
    if [ -n "$of" ] && [ "$(mariadb -N -e "SELECT MASTER_GTID_WAIT('$position', 5)")" = 0 ]; then
      echo "Follows $primary ($primary_address), caught up with $position"
      return
    fi
    sleep 0.5
  done
  if [ "${RS_REBOOT:-false}" = true ]; then
    echo "Has not caught up with $primary within 300 s: it has come back with its data, and goes on."
    return
  fi
  echo "Has not caught up with $primary within 300 s:" >&2
  mariadb -e "SHOW SLAVE STATUS\G" | grep -E "_Running:|Last_.*Error:|Seconds_Behind" >&2
  exit 1
}

refuse_names
if [ "$me" = "$primary" ]; then refuse_to_start_empty; else seed; fi
take_role
