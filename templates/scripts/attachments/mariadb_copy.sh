#!/bin/bash
# Written by relaunch: attachment mariadb_copy.sh of the scripts that back up and restore MariaDB. Change it there.
#
# A server of its own on a copy of the data, unreachable from outside, beside the one that runs here. Meant to be
# sourced; whoever does has:
#   sockets      a folder that mysql may write to
# shellcheck disable=SC2154
set -euo pipefail

server_pid=
ask_copy() { mariadb --no-defaults --skip-ssl --socket="$sockets/s" -N -B "$@"; }

# The binary log that came with the copy decides what was committed, as after a crash. Without TLS, whose key it would
# make first. Its own log begins where the data ends, with the same GTIDs: replicas can follow it.
start_copy() { # start_copy DATA [OPTIONS]: with its log in $sockets/log.err
  local data=$1
  shift
  mariadbd --defaults-file="$data/backup-my.cnf" --user=mysql --datadir="$data" --socket="$sockets/s" --pid-file="$sockets/pid" \
    --log-error="$sockets/log.err" --skip-networking --skip-ssl --skip-slave-start --log-bin=binlog --relay-log=relay \
    --binlog-format=ROW --server-id=1 --gtid-strict-mode=ON --sync-binlog=0 --innodb-flush-log-at-trx-commit=0 \
    --innodb-temp-data-file-path=ibtmp1:2M:autoextend --max-allowed-packet=1G --event-scheduler=OFF \
    --log-bin-trust-function-creators=ON --loose-plugin-load-add= \
    --innodb-buffer-pool-load-at-startup=OFF --innodb-buffer-pool-dump-at-shutdown=OFF "$@" >/dev/null 2>&1 &
  server_pid=$!
  for _ in $(seq 20000); do
    if [ -S "$sockets/s" ] && ask_copy -e "SELECT 1" >/dev/null 2>&1; then return 0; fi
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.02
  done
  echo "MariaDB does not start on the copy in $data:" >&2
  tail -n 20 "$sockets/log.err" >&2
  exit 1
}

copy_position() { ask_copy -e "SELECT IF(@@gtid_binlog_pos <> '', @@gtid_binlog_pos, @@gtid_slave_pos)"; }

stop_copy() { # in order, so that there is nothing to recover
  ask_copy -e "SET GLOBAL innodb_fast_shutdown = 1; SHUTDOWN"
  wait "$server_pid" || true
  server_pid=
}

leave_copy() { stop_copy; } # which takes no time worth saving, and leaves nothing to be recovered

kill_copy() {
  if [ -n "$server_pid" ]; then kill -KILL "$server_pid" 2>/dev/null || true; wait "$server_pid" 2>/dev/null || true; fi
}
