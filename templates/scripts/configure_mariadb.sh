#!/bin/bash
# ---
# RightScript Name: Configure MariaDB
# Description: Settings for replication and TLS, then the start. Read-only until the controller gives this server a role.
# Inputs:
#   INNODB_BUFFER_POOL:
#     Category: Database
#     Description: Memory for data pages; most of a database server's memory when it does nothing else.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:128M
#   MAX_CONNECTIONS:
#     Category: Database
#     Description: Connections at the same time.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:200
# ...
set -euo pipefail

# A server that does not start for it would only say so in its log.
[[ $INNODB_BUFFER_POOL =~ ^[1-9][0-9]*[KMGTkmgt]?$ ]] || { echo "INNODB_BUFFER_POOL must be a size like 512M or 2G, not $INNODB_BUFFER_POOL" >&2; exit 1; }
[[ $MAX_CONNECTIONS =~ ^[1-9][0-9]*$ ]] || { echo "MAX_CONNECTIONS must be a number like 200, not $MAX_CONNECTIONS" >&2; exit 1; }
server=$(relaunch-local get server)
name=$(jq -r .name <<<"$server")
address=$(jq -r .address <<<"$server")
group=$(relaunch-local get database.group)
IFS=. read -r first second third fourth <<<"$address"
id=$((((first * 256 + second) * 256 + third) * 256 + fourth)) # the whole address: nobody else in a group can have it
config=/etc/mysql/mariadb.conf.d/90-relaunch.cnf

# The server reads the key as its own user.
install -d -o mysql -g mysql -m 750 /etc/mysql/tls
for file in server.crt server.key ca.crt; do
  install -o mysql -g mysql -m 400 "/etc/relaunch/tls/$file" "/etc/mysql/tls/$file.new"
  mv -f "/etc/mysql/tls/$file.new" "/etc/mysql/tls/$file"
done

cat >"$config.new" <<FILE
# Written by relaunch: template $(jq -r .template <<<"$server"), script configure_mariadb.sh, $name. Change the script, not this file.
[mariadbd]
# Its own address only: on 127.0.1.1 listens HAProxy, the way to whoever is the primary.
bind_address = $address
report_host = $address
skip_name_resolve = ON
max_connections = $MAX_CONNECTIONS
# Health checks connect and leave; that must not lock their host out.
max_connect_errors = 4294967295
innodb_buffer_pool_size = $INNODB_BUFFER_POOL
character_set_server = utf8mb4
# A dump writes a blob as twice its size; whoever loads it back, or copies rows, must not be refused for that.
max_allowed_packet = 1G

# Never writable by its own restart: only the agent, by an order of the controller, switches this off.
read_only = ON

# No acknowledged write is lost.
innodb_flush_log_at_trx_commit = 1
sync_binlog = 1

# Replication by GTID; one domain per database group, so that a site can move between groups.
server_id = $id
gtid_domain_id = $(($(printf '%s' "$group" | cksum | cut -d' ' -f1) % 4294967295))
gtid_strict_mode = ON
log_bin = binlog
log_slave_updates = ON
binlog_format = ROW
expire_logs_days = 7
# Since 11.4 a server that nobody follows, as every replica, would keep all of them; what somebody reads is kept anyway.
loose_slave_connections_needed_for_purge = 0
relay_log = relay
# The agent starts it, in the role the controller wants. It tries for ever to reach the source, once a second.
skip_slave_start = ON
master_retry_count = 4294967295
slave_parallel_threads = 4
slave_parallel_mode = optimistic
slave_net_timeout = 4

# Who acknowledges and who waits for that, the agent switches on by the controller's order: neither by a restart.
rpl_semi_sync_slave_enabled = OFF
rpl_semi_sync_master_enabled = OFF
# A commit is visible to others only once it is acknowledged.
rpl_semi_sync_master_wait_point = AFTER_SYNC
# Stopping replication from a silent primary tries for so long to tell it.
rpl_semi_sync_slave_kill_conn_timeout = 1

require_secure_transport = ON
ssl_cert = /etc/mysql/tls/server.crt
ssl_key = /etc/mysql/tls/server.key
ssl_ca = /etc/mysql/tls/ca.crt
FILE

if systemctl is-active --quiet mariadb && cmp -s "$config" "$config.new"; then
  rm "$config.new"
  echo "MariaDB runs with these settings already."
  exit 0
fi
mv "$config.new" "$config"
systemctl restart mariadb
echo "MariaDB listens on $address:3306, read-only, group $group, server id $id."
