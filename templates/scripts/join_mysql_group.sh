#!/bin/bash
# ---
# RightScript Name: Join database group
# Description: |-
#   A replica is cloned from another replica that is in step, else from the primary; a young group's history is short
#   enough to be followed from its start. Then the controller is told that this server's data is the group's, the agent
#   takes the role that the controller gives, and on the primary accounts and databases are made. The primary of a group
#   that has data already refuses to start empty.
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
#     Description: Replicas log in with it to follow and to be cloned; MySQL takes 32 characters at most.
#     Input Type: single
#     Required: true
#   CLONE_MIB_PER_SECOND:
#     Category: Database
#     Description: The most a clone may take of its source's disk and network; 0 is no limit.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:0
# Attachments:
# - database_group.sh
# - group_names.sh
# - mysql_logins.sh
# - mysql_clone.sh
# ...
# shellcheck disable=SC2034,SC2154  # variables are given to the attachments, and come from them
set -euo pipefail

client=mysql
# shellcheck source=attachments/database_group.sh disable=SC1091
. "$RS_ATTACH_DIR/database_group.sh"
# shellcheck source=attachments/group_names.sh disable=SC1091
. "$RS_ATTACH_DIR/group_names.sh"
# shellcheck source=attachments/mysql_logins.sh disable=SC1091
. "$RS_ATTACH_DIR/mysql_logins.sh"
# shellcheck source=attachments/mysql_clone.sh disable=SC1091
. "$RS_ATTACH_DIR/mysql_clone.sh"

if [ "${#REPLICATION_PASSWORD}" -gt 32 ]; then
  echo "REPLICATION_PASSWORD has ${#REPLICATION_PASSWORD} characters; MySQL takes 32 for following a server." >&2
  exit 1
fi

schemas() {  # the sites' databases, and one more
  { relaunch-local get sites 2>/dev/null || echo '[]'; } | jq -r '.[].database // empty'
  if [ -n "${DB_NAME:-}" ]; then echo "$DB_NAME"; fi
}

accounts() {
  local user password replication schema
  user=$(quoted "$DB_USER") password=$(quoted "$DB_PASSWORD") replication=$(quoted "$REPLICATION_PASSWORD")
  cat <<SQL
CREATE USER IF NOT EXISTS $user@'%' IDENTIFIED WITH caching_sha2_password BY $password REQUIRE SSL;
CREATE USER IF NOT EXISTS 'replication'@'%' IDENTIFIED WITH caching_sha2_password BY $replication REQUIRE SSL;
GRANT REPLICATION SLAVE ON *.* TO 'replication'@'%';
-- A clone is a copy of everything: the password alone does not do, a certificate of ours must come with it.
CREATE USER IF NOT EXISTS 'seed'@'%' IDENTIFIED WITH caching_sha2_password BY $replication;
ALTER USER 'seed'@'%' REQUIRE ISSUER $(quoted "$(issuer)");
GRANT SELECT, BACKUP_ADMIN, PROCESS, REPLICATION CLIENT ON *.* TO 'seed'@'%';
-- Other servers of the deployment look whether this one answers: their certificate is what lets them in.
CREATE USER IF NOT EXISTS 'relaunch_probe'@'%';
ALTER USER 'relaunch_probe'@'%' REQUIRE ISSUER $(quoted "$(issuer)");
CREATE DATABASE IF NOT EXISTS relaunch CHARACTER SET utf8mb4;
CREATE TABLE IF NOT EXISTS relaunch.heartbeat (
  server_id INT UNSIGNED PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL, at DATETIME(3) NOT NULL) ENGINE = InnoDB;
GRANT SELECT ON relaunch.heartbeat TO 'relaunch_probe'@'%';
SQL
  for schema in $(schemas); do
    cat <<SQL
CREATE DATABASE IF NOT EXISTS \`$schema\` CHARACTER SET utf8mb4;
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES, LOCK TABLES,
  CREATE VIEW, SHOW VIEW, TRIGGER, EXECUTE ON \`$schema\`.* TO $user@'%';
SQL
  done
}

# Nothing where it is taken already: two are while passwords are changed, and neither may be lost then.
passwords() {
  bring_to "$DB_USER" "$DB_PASSWORD"
  bring_to replication "$REPLICATION_PASSWORD"
  bring_to seed "$REPLICATION_PASSWORD"
}

bring_to() {  # USER PASSWORD
  if ! lets_in "$1" "$2"; then echo "ALTER USER $(quoted "$1")@'%' IDENTIFIED BY $(quoted "$2");"; fi
}

data=$(realpath /var/lib/mysql) # which is a link where the data lies on a volume
copy=$data-clone
here() { mysql -N -B -e "$1"; }
at() { mysql --defaults-extra-file=seed.cnf --host="$1" -N -B --raw <<<"$2"; }  # ADDRESS STATEMENTS

primary_position() { at "$primary_address" "SELECT REPLACE(@@global.gtid_executed, '\n', '')"; }

log_in() {
  install -m 600 /dev/stdin seed.cnf <<FILE
[client]
user = seed
password = $(in_file "$REPLICATION_PASSWORD")
connect-timeout = 5
ssl-mode = VERIFY_IDENTITY
ssl-ca = /etc/relaunch/tls/ca.crt
ssl-cert = /etc/relaunch/tls/server.crt
ssl-key = /etc/relaunch/tls/server.key
FILE
}

wait_for_primary() {
  local said end=$((SECONDS + 120)) waited=""
  while [ "$SECONDS" -lt "$end" ]; do
    look_again || true
    [ "$waited" = "$primary" ] || echo "Waiting until $primary takes writes"
    waited=$primary
    said=$(at "$primary_address" "SELECT @@super_read_only OR @@offline_mode" 2>&1) || true
    [ "$said" != 0 ] || return 0
    sleep 0.5
  done
  echo "$primary does not take writes after 120 s: $said" >&2
  exit 1
}

wait_for_server() {
  for _ in $(seq 300); do
    if here "SELECT 1" >/dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  echo "MySQL does not answer here after 60 s:" >&2
  journalctl -u mysql -n 10 -o cat >&2
  exit 1
}

series() { cut -d. -f1,2; }

refuse_another_version() {
  local theirs mine
  theirs=$(at "$primary_address" "SELECT VERSION()")
  mine=$(mysqld --version | awk '{print $3}')
  if [ "$(series <<<"$theirs")" != "$(series <<<"$mine")" ]; then
    echo "$primary runs MySQL $theirs, this server $mine: it cannot become its replica. Nothing was copied." >&2
    echo "Launch it from an image with MySQL $(series <<<"$theirs")." >&2
    exit 1
  fi
}

# Nothing has been purged: following from the start copies everything, and costs the source less than a clone.
history_is_short() { # also false where it cannot be told
  local executed purged logs
  executed=$(here "SELECT @@global.gtid_executed") && [ -z "$executed" ] &&
    purged=$(at "$primary_address" "SELECT @@global.gtid_purged") && [ -z "$purged" ] &&
    logs=$(at "$primary_address" "SHOW BINARY LOGS") &&
    [ "$(awk '{bytes += $2} END {print (bytes < 8 * 1024 * 1024)}' <<<"$logs")" = 1 ]
}

# What a filter leaves out counts as executed: positions do not tell that it is missing.
has_filters() { # ADDRESS: also where it cannot be told
  local channels
  channels=$(mysql --defaults-extra-file=seed.cnf --host="$1" -E -e "SHOW REPLICA STATUS") || return 0
  grep -qE '^ *Replicate_[A-Za-z_]+: .' <<<"$channels"
}

# A replica with all that the primary has at this moment: the primary has enough to do.
choose_source() {
  local position name address
  position=$(primary_position) || return
  while read -r name address; do
    case $name in "$me" | "$primary") continue ;; esac
    if has_filters "$address"; then
      echo "$name filters what it applies, or does not say: it may lack data, and is not cloned from." >&2
      continue
    fi
    if [ "$(at "$address" "SELECT WAIT_FOR_EXECUTED_GTID_SET('$position', 5)" 2>/dev/null)" = 0 ]; then
      echo "$name $address"
      return
    fi
    echo "$name is not in step, and is not cloned from." >&2
  done < <(relaunch-local get database.replicas | jq -r '.[] | "\(.name) \(.address)"')
  echo "$primary $primary_address"
}

# A clone has the rows of InnoDB's tables only, and makes the others empty: a replica of that would one day lead without them.
refuse_rows_of_other_engines() {
  local asked found
  asked=$(at "$primary_address" "SELECT CONCAT('SELECT ', QUOTE(CONCAT(table_schema, '.', table_name, ' (', engine, ')')),
      ' FROM \`', REPLACE(table_schema, '\`', '\`\`'), '\`.\`', REPLACE(table_name, '\`', '\`\`'), '\` LIMIT 1;')
    FROM information_schema.tables WHERE engine IN ('MyISAM', 'ARCHIVE', 'CSV')
    AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')") || return
  found=$(at "$primary_address" "SET SESSION lock_wait_timeout = 5; $asked") || return
  [ -n "$found" ] || return 0
  rm -rf "$copy"
  echo "MySQL clones no rows of tables that are not InnoDB's, and $primary has some: $(paste -sd' ' <<<"$found")." >&2
  echo "Nothing here was changed. Say there ALTER TABLE … ENGINE = InnoDB, then run this again." >&2
  exit 1
}

# Beside the data, not over it: a clone that breaks off leaves nothing behind, and MySQL could not rename what came with
# the image in a container.
clone_from() {  # NAME ADDRESS
  local began=$SECONDS end
  rm -rf "$copy"
  install -d -o mysql -g mysql -m 750 "$copy"
  echo "Cloning $1 ($2)"
  here "SET GLOBAL clone_valid_donor_list = '$2:3306', GLOBAL clone_max_data_bandwidth = $CLONE_MIB_PER_SECOND"
  if ! clone_into "$copy/data" "CLONE INSTANCE FROM 'seed'@'$2':3306 IDENTIFIED BY $(quoted "$REPLICATION_PASSWORD")
    DATA DIRECTORY '$copy/data' REQUIRE SSL"; then
    rm -rf "$copy"
    echo "The clone failed, and nothing here was changed: $(tail -n 3 clone.said)" >&2
    return 1
  fi
  end=$((SECONDS + 300))
  until refuse_rows_of_other_engines; do # some may have come meanwhile; whoever leads by then says so
    if [ "$SECONDS" -ge "$end" ]; then
      rm -rf "$copy"
      echo "$primary does not say whether it has rows that a clone lacks." >&2
      return 1
    fi
    sleep 1
    look_again || true
  done
  touch "$copy/complete"
  echo "Cloned in $((SECONDS - began)) s"
}

# Each step may have been the last one of a run that was killed.
put_in_place() {
  systemctl stop mysql
  if [ -e "$copy/complete" ]; then
    find "$data" -mindepth 1 -delete
    mv "$copy/complete" "$copy/emptied"
  fi
  find "$copy/data" -mindepth 1 -maxdepth 1 -exec mv -t "$data" {} +
  sync -f "$data"   # what is acknowledged here must not rest on files that a power cut undoes
  systemctl start mysql
  wait_for_server
  # Whom the source followed came along, and is not whom we follow.
  here "RESET REPLICA ALL"
  rm -rf "$copy"
  echo "The copy is in place, up to $(here "SELECT REPLACE(@@global.gtid_executed, '\n', '')")"
}

# After a failure another one may lead by now.
clone_anew() {
  local name address turn
  for turn in $(seq 5); do
    if [ "$turn" != 1 ]; then
      echo "The group's data is not here yet. Once more in 10 s."
      sleep 10
      wait_for_primary
    fi
    rm -rf "$copy" # one that was broken off takes room
    refuse_rows_of_other_engines || continue
    read -r name address < <(choose_source) || continue
    need_disk "$(at "$address" "$clone_bytes")" "$data"
    if clone_from "$name" "$address"; then return; fi
    if [ "$name" != "$primary" ]; then
      need_disk "$(at "$primary_address" "$clone_bytes")" "$data"
      if clone_from "$primary" "$primary_address"; then return; fi
    fi
  done
  exit 1
}

seed() {
  log_in
  if [ -e "$joined" ]; then return; fi # it follows its primary once that is there, however late after a loss of power
  wait_for_primary
  refuse_another_version
  if [ ! -e "$copy/complete" ] && [ ! -e "$copy/emptied" ]; then
    wait_for_server
    end_other_clones TRUE
    if history_is_short; then return; fi
    clone_anew
  fi
  put_in_place
}

wait_until_caught_up() {
  local position="" of="" end=$((SECONDS + 300))
  if [ ! -e seed.cnf ]; then return; fi
  while [ "$SECONDS" -lt "$end" ]; do
    look_again || true
    if [ "$of" != "$primary_address" ]; then  # what a former primary had, this one may never have
      of=""
      position=$(primary_position) && of=$primary_address
    fi
    if [ -n "$of" ] && [ "$(here "SELECT WAIT_FOR_EXECUTED_GTID_SET('$position', 5)")" = 0 ]; then
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
  mysql -E -e "SHOW REPLICA STATUS" | grep -E "_Running:|Last_.*Error:|Seconds_Behind" >&2
  exit 1
}

refuse_names
if [ "$me" = "$primary" ]; then refuse_to_start_empty; else seed; fi
be_a_member
role=$(wait_for_role)
echo "Role: $role"
case $role in
  primary) ensure_accounts ;;
  replica) wait_until_caught_up ;;
esac
relaunch-local tag "database=$role"
