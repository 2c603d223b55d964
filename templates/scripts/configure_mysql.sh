#!/bin/bash
# ---
# RightScript Name: Configure MySQL
# Description: Settings for replication and TLS, then the start. Read-only until this server's role is known.
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
IFS=. read -r first second third fourth <<<"$address"
id=$((((first * 256 + second) * 256 + third) * 256 + fourth)) # the whole address: nobody else in a group can have it
config=/etc/mysql/mysql.conf.d/zz-90-relaunch.cnf

# The server reads the key as its own user.
install -d -o mysql -g mysql -m 750 /etc/mysql/tls
for file in server.crt server.key ca.crt; do
  install -o mysql -g mysql -m 400 "/etc/relaunch/tls/$file" "/etc/mysql/tls/$file.new"
  mv -f "/etc/mysql/tls/$file.new" "/etc/mysql/tls/$file"
done

cat >"$config.new" <<FILE
# Written by relaunch: template $(jq -r .template <<<"$server"), script configure_mysql.sh, $name. Change the script, not this file.
[mysqld]
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

# Never writable by its own restart, and following nobody before it is told whom; what was SET PERSIST does not count.
super_read_only = ON
skip_replica_start = ON
persisted_globals_load = OFF

# No acknowledged write is lost; what a replica received survives its restart.
innodb_flush_log_at_trx_commit = 1
sync_binlog = 1
sync_relay_log = 1
relay_log_recovery = OFF

server_id = $id
gtid_mode = ON
enforce_gtid_consistency = ON
log_bin = binlog
# Rows are logged, not statements: so a trigger or function may do what differs from server to server.
log_bin_trust_function_creators = ON
# A scheduled event would run on the primary until the next failover and then nowhere; and beside the server it is imported from.
event_scheduler = OFF
binlog_expire_logs_seconds = 604800
relay_log = relay
replica_parallel_workers = 4
replica_preserve_commit_order = ON
replica_net_timeout = 4

# Loaded, and off: who acknowledges and who waits for that, the agent switches on by the controller's order.
plugin_load_add = auth_socket.so
plugin_load_add = semisync_source.so
plugin_load_add = semisync_replica.so
plugin_load_add = mysql_clone.so

require_secure_transport = ON
ssl_cert = /etc/mysql/tls/server.crt
ssl_key = /etc/mysql/tls/server.key
ssl_ca = /etc/mysql/tls/ca.crt
# With them a replica logs in where it is cloned from.
clone_ssl_cert = /etc/mysql/tls/server.crt
clone_ssl_key = /etc/mysql/tls/server.key
clone_ssl_ca = /etc/mysql/tls/ca.crt
FILE

if systemctl is-active --quiet mysql && cmp -s "$config" "$config.new"; then
  rm "$config.new"
  echo "MySQL runs with these settings already."
  exit 0
fi
mv "$config.new" "$config"
systemctl restart mysql
echo "MySQL listens on $address:3306, read-only, server id $id."
