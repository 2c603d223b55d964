#!/bin/bash
# Written by relaunch: attachment mysql_copy.sh of the scripts that back up and restore MySQL. Change it there.
#
# A server of its own on a copy of the data, unreachable from outside, beside the one that runs here. Meant to be
# sourced; whoever does has:
#   sockets      a folder that mysql may write to
# shellcheck disable=SC2154
set -euo pipefail

server_pid=
ask_copy() { mysql --no-defaults --user=root --socket="$sockets/s" -N -B "$@"; }

# Its own log begins where the data ends, with the same GTIDs: replicas can follow it.
start_copy() { # start_copy DATA [OPTIONS]: with its log in $sockets/log.err
  local data=$1
  shift
  mysqld --no-defaults --user=mysql --datadir="$data" --socket="$sockets/s" --pid-file="$sockets/pid" --log-error="$sockets/log.err" \
    --skip-networking --mysqlx=OFF --skip-replica-start --persisted-globals-load=OFF --secure-file-priv=NULL \
    --plugin-load-add=auth_socket.so --performance-schema=OFF --event-scheduler=OFF --log-bin-trust-function-creators=ON \
    --auto-generate-certs=OFF --caching-sha2-password-auto-generate-rsa-keys=OFF \
    --server-id=1 --gtid-mode=ON --enforce-gtid-consistency=ON --log-bin=binlog --relay-log=relay --sync-binlog=0 \
    --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=OFF --max-allowed-packet=1G \
    --innodb-buffer-pool-load-at-startup=OFF --innodb-buffer-pool-dump-at-shutdown=OFF "$@" &
  server_pid=$!
  for _ in $(seq 20000); do
    if [ -S "$sockets/s" ] && ask_copy -e "SELECT 1" >/dev/null 2>&1; then return 0; fi
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.02
  done
  echo "MySQL does not start on the copy in $data:" >&2
  tail -n 20 "$sockets/log.err" >&2
  exit 1
}

copy_position() { ask_copy -e "SELECT REPLACE(@@global.gtid_executed, '\n', '')"; }

stop_copy() { # in order, so that there is nothing to recover
  ask_copy -e "SET GLOBAL innodb_fast_shutdown = 1; SHUTDOWN"
  wait "$server_pid" || true
  server_pid=
}

# Within no time. What it has committed with innodb_flush_log_at_trx_commit = 1 is there for whoever starts on the data: he
# recovers as from a crash, as this server has just done, in a fraction of the time that a stop in order takes.
leave_copy() {
  kill_copy
  server_pid=
}

kill_copy() {
  if [ -n "$server_pid" ]; then kill -KILL "$server_pid" 2>/dev/null || true; wait "$server_pid" 2>/dev/null || true; fi
}
