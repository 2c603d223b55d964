#!/bin/bash
# ---
# RightScript Name: Change passwords
# Description: |-
#   One step of changing the passwords of the app, of replication and of seeding while everybody goes on working.
#   accept: the primary takes the new ones beside the old. follow: this server knows the new one, and its receiver logs in
#   with it. drop: the primary takes the new ones only. Each may be done twice.
# Inputs:
#   ROTATION_STEP:
#     Category: Database
#     Description: accept, follow or drop.
#     Input Type: single
#     Required: true
#     Advanced: true
#     Default: text:accept
#   DB_USER:
#     Category: Database
#     Description: The app's login.
#     Input Type: single
#     Required: true
#     Default: text:app
#   NEXT_APP_LOGIN:
#     Category: Database
#     Description: Its new password, given as a credential when this is run; blank leaves it as it is.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   NEXT_REPLICATION_LOGIN:
#     Category: Database
#     Description: The new password of replication and seeding, given likewise; blank leaves it as it is.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   ROTATION_POSITION:
#     Category: Database
#     Description: For follow, where the primary was once it accepted the new ones; this server gets there first.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
# ...
set -euo pipefail

quoted() {  # a string for SQL
  local value=${1//\\/\\\\}
  printf "'%s'" "${value//\'/\'\'}"
}

sql() { timeout 60 mariadb -N -B <<<"$1"; }

hash_of() { sql "SELECT PASSWORD($(quoted "$1"))"; }

accepted() {  # USER: the hashes of the passwords it may log in with
  sql "SELECT Priv FROM mysql.global_priv WHERE User = $(quoted "$1") AND Host = '%'" |
    sed 's/\\\\/\\/g' | jq -r '[., .auth_or[]?] | .[].authentication_string | select(. != null and . != "" and . != "invalid")'
}

let_in() {  # USER HASH…: these passwords and no others; nothing when it is so already
  local user=$1 ways='' hash
  shift
  if [ "$(accepted "$user" | sort)" = "$(printf '%s\n' "$@" | sort)" ]; then
    echo "$user: as it should be already"
    return
  fi
  for hash in "$@"; do ways+="${ways:+ OR }mysql_native_password USING $(quoted "$hash")"; done
  sql "ALTER USER $(quoted "$user")@'%' IDENTIFIED VIA $ways REQUIRE SSL"
  echo "$user: $# password(s) accepted"
}

each_login() {  # COMMAND: called with a login and its new password
  if [ -n "${NEXT_APP_LOGIN:-}" ]; then "$1" "$DB_USER" "$NEXT_APP_LOGIN"; fi
  if [ -n "${NEXT_REPLICATION_LOGIN:-}" ]; then
    "$1" replication "$NEXT_REPLICATION_LOGIN"
    "$1" seed "$NEXT_REPLICATION_LOGIN"
  fi
}

accept() {
  local new old
  new=$(hash_of "$2")
  mapfile -t old < <(accepted "$1" | grep -vxF "$new")
  let_in "$1" "$new" "${old[@]}"
}

drop() { let_in "$1" "$(hash_of "$2")"; }

must_be_primary() {
  if [ "$(sql "SELECT @@read_only")" != 0 ]; then
    echo "This server takes no writes: it is not the primary." >&2
    exit 1
  fi
}

replica_says() { mariadb -e "SHOW SLAVE STATUS\G" | sed -n "s/^ *$1: //p"; }

log_in_again() {  # the receiver; what it received is applied first, as changing its login discards the rest
  local received
  sql "STOP SLAVE IO_THREAD"
  received=$(replica_says Gtid_IO_Pos)
  if [ "$(sql "SELECT MASTER_GTID_WAIT('$received', 30)")" != 0 ]; then
    sql "START SLAVE IO_THREAD"
    echo "This replica has not applied within 30 s what it received: it lags too much to be reconnected." >&2
    exit 1
  fi
  # The agent may have started it meanwhile: what came then, and was acknowledged, is to be applied first as well. The
  # applier runs on: from a standstill it would begin with nothing of that.
  sql "STOP SLAVE IO_THREAD"
  received=$(replica_says Gtid_IO_Pos)
  if [ "$(sql "SELECT MASTER_GTID_WAIT('$received', 0)")" != 0 ]; then
    sql "START SLAVE IO_THREAD"
    return 1
  fi
  # The receiver is not stopped once more: if the agent has started it, the change is refused, and tried again.
  if ! sql "STOP SLAVE SQL_THREAD; CHANGE MASTER TO MASTER_PASSWORD = $(quoted "$NEXT_REPLICATION_LOGIN"); START SLAVE"; then
    sql "START SLAVE SQL_THREAD"
    return 1
  fi
}

receives() {  # and acknowledges, if it is to
  [ "$(replica_says Slave_IO_Running)" = Yes ] && [ "$(replica_says Slave_SQL_Running)" = Yes ] &&
    [ "$(sql "SELECT @@rpl_semi_sync_slave_enabled = (SELECT VARIABLE_VALUE = 'ON' FROM information_schema.GLOBAL_STATUS
      WHERE VARIABLE_NAME = 'Rpl_semi_sync_slave_status')")" = 1 ]
}

follow() {
  if [ -z "${NEXT_REPLICATION_LOGIN:-}" ]; then return; fi
  if [ -n "$ROTATION_POSITION" ] && [ "$(sql "SELECT @@read_only")" = 1 ] &&
    [ "$(sql "SELECT MASTER_GTID_WAIT('$ROTATION_POSITION', 55)")" != 0 ]; then
    echo "This replica has not come to $ROTATION_POSITION within 55 s: it does not know the new passwords." >&2
    exit 1
  fi
  login=$(NEXT=$NEXT_REPLICATION_LOGIN jq '.password = env.NEXT' /etc/relaunch/replication.json) # arguments are seen by all
  install -m 600 /dev/stdin /etc/relaunch/replication.json.new <<<"$login"
  mv /etc/relaunch/replication.json.new /etc/relaunch/replication.json
  if [ -z "$(replica_says Master_Host)" ]; then
    echo "Follows nobody: nothing to reconnect."
    return
  fi
  for attempt in 1 2 3 4 5; do
    if log_in_again; then break; fi
    [ "$attempt" != 5 ] || exit 1
  done
  for _ in $(seq 100); do
    if receives; then
      echo "Follows $(replica_says Master_Host) with the new password."
      return
    fi
    sleep 0.1
  done
  echo "The receiver does not come back: $(replica_says Last_IO_Error) $(replica_says Last_SQL_Error)" >&2
  exit 1
}

case $ROTATION_STEP in
  accept | drop)
    must_be_primary
    each_login "$ROTATION_STEP"
    ;;
  follow) follow ;;
  *)
    echo "No step $ROTATION_STEP" >&2
    exit 1
    ;;
esac
echo "PASSWORDS $(jq -cn --arg position "$(sql "SELECT @@gtid_binlog_pos")" '{$position}')"
