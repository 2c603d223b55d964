#!/bin/bash
# ---
# RightScript Name: Install MariaDB
# Description: MariaDB with an empty, ready data directory, so that its first start takes no longer than any other.
# Packages: mariadb-server mariadb-client mariadb-backup age rclone zstd btrfs-progs lvm2
# Inputs: {}
# ...
set -euo pipefail

systemctl stop mariadb

# Sizes that the data directory is made with. A small redo log: it is copied whole when an instance first writes to it.
cat >/etc/mysql/mariadb.conf.d/80-relaunch-files.cnf <<'FILE'
# Written by relaunch: script install_mariadb.sh. Change the script, not this file.
[mariadbd]
innodb_log_file_size = 32M
innodb_data_file_path = ibdata1:12M:autoextend
innodb_temp_data_file_path = ibtmp1:2M:autoextend
innodb_undo_tablespaces = 2
innodb_fast_shutdown = 1
FILE

install -d /etc/systemd/system/mariadb.service.d
cat >/etc/systemd/system/mariadb.service.d/relaunch.conf <<'FILE'
# Written by relaunch: script install_mariadb.sh. Change the script, not this file.
[Unit]
# Enabled from the image on, so that it comes back by itself after a reboot; but not before it was configured.
ConditionPathExists=/etc/mysql/mariadb.conf.d/90-relaunch.cnf
[Service]
# The package's own hooks check tables and upgrade at every start; the data directory here is of this very version.
ExecStartPre=
ExecStartPost=
# After a crash it is up again at once, read-only: the agent brings it back to its role.
Restart=on-failure
RestartSec=0.5s
FILE
systemctl daemon-reload

if [ ! -e /var/lib/mysql/relaunch-group ]; then
  find /var/lib/mysql -mindepth 1 -delete
  mariadb-install-db --user=mysql --auth-root-authentication-method=socket --skip-test-db \
    --force --skip-name-resolve >/dev/null
fi
echo "$(mariadbd --version | awk '{print "MariaDB", $3}') is installed, stopped until configured."
