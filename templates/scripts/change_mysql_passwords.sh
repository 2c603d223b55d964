#!/bin/bash
# ---
# RightScript Name: Change passwords
# Description: |-
#   One step of changing the passwords of the app, of replication and of seeding while everybody goes on working, on MySQL:
#   an account has two passwords meanwhile. accept: the primary takes the new ones beside the old. follow: this server
#   knows the new one, and its receiver logs in with it. drop: the primary takes the new ones only. Each may be done twice.
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
# Attachments:
# - mysql_logins.sh
# ...
set -euo pipefail
# shellcheck source=attachments/mysql_logins.sh disable=SC1091
. "$RS_ATTACH_DIR/mysql_logins.sh"

sql() { timeout 60 mysql -N -B <<<"$1"; }

each_login() {  # COMMAND: called with a login and its new password
  if [ -n "${NEXT_APP_LOGIN:-}" ]; then "$1" "$DB_USER" "$NEXT_APP_LOGIN"; fi
  if [ -n "${NEXT_REPLICATION_LOGIN:-}" ]; then
    "$1" replication "$NEXT_REPLICATION_LOGIN"
    "$1" seed "$NEXT_REPLICATION_LOGIN"
  fi
}

# Once more would make the new one the retained one, and the old one would be gone.
accept() {  # USER PASSWORD
  if lets_in "$1" "$2"; then
    echo "$1: takes the new one already"
  else
    sql "ALTER USER $(quoted "$1")@'%' IDENTIFIED BY $(quoted "$2") RETAIN CURRENT PASSWORD"
    echo "$1: takes two passwords"
  fi
}

drop() {  # USER PASSWORD
  if ! lets_in "$1" "$2"; then
    echo "$1 does not take the new password: nothing is dropped." >&2
    exit 1
  fi
  sql "ALTER USER $(quoted "$1")@'%' DISCARD OLD PASSWORD"
  echo "$1: takes one password"
}

must_be_primary() {
  if [ "$(sql "SELECT @@super_read_only")" != 0 ]; then
    echo "This server takes no writes: it is not the primary." >&2
    exit 1
  fi
}

replica_says() { mysql -E -e "SHOW REPLICA STATUS" | sed -n "s/^ *$1: //p"; }

# The receiver alone, while the applier goes on: else what was received would be thrown away. The agent may start it in
# between: then the change is refused, and tried again.
log_in_again() {
  sql "STOP REPLICA IO_THREAD FOR CHANNEL '';
    CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD = $(quoted "$NEXT_REPLICATION_LOGIN") FOR CHANNEL '';
    START REPLICA IO_THREAD FOR CHANNEL ''"
}

receives() {  # and acknowledges, if it is to
  [ "$(replica_says Replica_IO_Running)" = Yes ] && [ "$(replica_says Replica_SQL_Running)" = Yes ] &&
    [ "$(sql "SELECT COUNT(*) FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Rpl_semi_sync_replica_status'
      AND (VARIABLE_VALUE = 'ON') = @@global.rpl_semi_sync_replica_enabled")" = 1 ]
}

follow() {
  if [ -z "${NEXT_REPLICATION_LOGIN:-}" ]; then return; fi
  if [ -n "$ROTATION_POSITION" ] && [ "$(sql "SELECT @@super_read_only")" = 1 ] &&
    [ "$(sql "SELECT WAIT_FOR_EXECUTED_GTID_SET('$ROTATION_POSITION', 55)")" != 0 ]; then
    echo "This replica has not come to $ROTATION_POSITION within 55 s: it does not know the new passwords." >&2
    exit 1
  fi
  login=$(NEXT=$NEXT_REPLICATION_LOGIN jq '.password = env.NEXT' /etc/relaunch/replication.json) # arguments are seen by all
  install -m 600 /dev/stdin /etc/relaunch/replication.json.new <<<"$login"
  mv /etc/relaunch/replication.json.new /etc/relaunch/replication.json
  if [ -z "$(replica_says Source_Host)" ]; then
    echo "Follows nobody: nothing to reconnect."
    return
  fi
  for attempt in 1 2 3 4 5; do
    if log_in_again; then break; fi
    [ "$attempt" != 5 ] || exit 1
  done
  for _ in $(seq 100); do
    if receives; then
      echo "Follows $(replica_says Source_Host) with the new password."
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
echo "PASSWORDS $(jq -cn --arg position "$(sql "SELECT REPLACE(@@global.gtid_executed, '\n', '')")" '{$position}')"
