#!/bin/bash
# Written by relaunch: attachment mysql_clone.sh of the scripts that clone a MySQL server. Change it there.
#
# A clone into a folder beside the data, of another server or of this one. Meant to be sourced; whoever does has:
#   here STATEMENT    runs it on this server as root, prints the rows
set -euo pipefail

# What a clone of a server takes, a tenth more; asked of that server.
# shellcheck disable=SC2034
clone_bytes="SELECT CAST((SUM(FILE_SIZE) + @@innodb_redo_log_capacity) * 1.1 AS UNSIGNED) FROM information_schema.INNODB_TABLESPACES"

need_disk() { # need_disk BYTES FOLDER: stop when so much does not fit there
  local free
  free=$(df --output=avail -B1 "$2" | tail -n 1)
  if [ "$free" -lt "$1" ]; then
    echo "NOT ENOUGH DISK: $(($1 / 1000000)) MB are needed in $2, $((free / 1000000)) MB are free. Nothing was done." >&2
    exit 1
  fi
}

end_other_clones() { # end_other_clones CONDITION: of a run that was killed
  local id under_way="performance_schema.clone_status WHERE STATE = 'In Progress' AND PID <> 0 AND $1"
  for id in $(here "SELECT PID FROM $under_way"); do
    echo "An unfinished clone is under way (session $id): it is ended."
    here "KILL $id" || true
  done
  for _ in $(seq 150); do
    [ "$(here "SELECT COUNT(*) FROM $under_way")" != 0 ] || return 0
    sleep 0.2
  done
  echo "The unfinished clone does not end." >&2
  exit 1
}

show_clone() {
  here "SELECT CONCAT(LOWER(STAGE), ': ', ROUND(DATA / 1e6), ' of ', ROUND(ESTIMATE / 1e6), ' MB, ', ROUND(DATA_SPEED / 1e6), ' MB/s')
    FROM performance_schema.clone_progress WHERE STATE = 'In Progress'" 2>/dev/null | sed 's/^/… /' || true
}

# MySQL makes one clone at a time; another one is waited for. What is said of a failure is in the file clone.said.
clone_into() { # clone_into FOLDER STATEMENT
  local cloning status
  for _ in $(seq 60); do
    rm -rf "$1"
    status=0
    mysql <<<"$2" 2>clone.said &
    cloning=$!
    while kill -0 "$cloning" 2>/dev/null; do
      sleep 1
      show_clone
    done
    wait "$cloning" || status=$?
    if [ "$status" = 0 ]; then return 0; fi
    rm -rf "$1"
    grep -q "Too many concurrent clone operations" clone.said || return 1
    echo "Another clone is under way: this one waits."
    sleep 5
  done
  return 1
}
