#!/bin/bash
# ---
# RightScript Name: Install MySQL
# Description: |-
#   MySQL of Debian sid, which no release of Debian carries, with an empty, ready data directory. Nothing else comes from
#   sid but the libraries that MySQL asks for.
# Packages: ca-certificates openssl age rclone zstd btrfs-progs lvm2 logrotate
# Inputs: {}
# ...
set -euo pipefail

if ! command -v mysqld >/dev/null; then
  # sid from wherever this server's other packages come from.
  mirror=$(sed -nE '/security/d; s/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' /etc/apt/sources.list | head -n 1)
  if [ -z "$mirror" ]; then
    echo "There is no mirror in /etc/apt/sources.list to take sid from: add a line deb ADDRESS SUITE main" >&2
    exit 1
  fi
  cat >/etc/apt/sources.list.d/relaunch-sid.list <<FILE
# Written by relaunch: script install_mysql.sh. Change the script, not this file.
deb $mirror sid main
FILE
  cat >/etc/apt/preferences.d/relaunch-sid <<'FILE'
# Written by relaunch: script install_mysql.sh. Change the script, not this file.
Package: *
Pin: release n=sid
Pin-Priority: 100
FILE
  # The package starts a server with a data directory of its own making, and puts a link to its settings there.
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  # A mirror that stands still is still good: sid's signatures are short-lived.
  apt-get -q -o Acquire::Check-Valid-Until=false update
  DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    install --no-install-recommends -t sid mysql-server mysql-client
  rm -f /usr/sbin/policy-rc.d
fi
systemctl stop mysql 2>/dev/null || :

# Sizes that the data directory is made with. A small redo log: it is copied whole when an instance first writes to it.
# The last file that is read counts: the package's own says 127.0.0.1.
cat >/etc/mysql/mysql.conf.d/zz-80-relaunch-files.cnf <<'FILE'
# Written by relaunch: script install_mysql.sh. Change the script, not this file.
[mysqld]
innodb_redo_log_capacity = 32M
mysqlx = OFF
FILE

# Copies of the data lie beside it, and a server of its own is started on them.
if [ -d /etc/apparmor.d/local ]; then
  cat >/etc/apparmor.d/local/usr.sbin.mysqld <<'FILE'
# Written by relaunch: script install_mysql.sh. Change the script, not this file.
/var/lib/mysql-*/ r,
/var/lib/mysql-*/** rwk,
/run/relaunch-*/** rwk,
FILE
  if [ -d /sys/module/apparmor ] && command -v apparmor_parser >/dev/null; then apparmor_parser -r /etc/apparmor.d/usr.sbin.mysqld || :; fi
fi

install -d /etc/systemd/system/mysql.service.d
cat >/etc/systemd/system/mysql.service.d/relaunch.conf <<'FILE'
# Written by relaunch: script install_mysql.sh. Change the script, not this file.
[Unit]
# Enabled from the image on, so that it comes back by itself after a reboot; but not before it was configured.
ConditionPathExists=/etc/mysql/mysql.conf.d/zz-90-relaunch.cnf
[Service]
# The package's hook looks for a data directory, which is made here.
ExecStartPre=
# After a crash it is up again at once, read-only.
Restart=on-failure
RestartSec=0.5s
# Shutting down, it lets go of commits that wait for an acknowledgement, and answers them: so clients lose their connections
# first.
ExecStop=-+/usr/bin/timeout 5 /usr/bin/mysql -e "SET GLOBAL offline_mode = ON"
TimeoutStopSec=30s
FILE
systemctl daemon-reload
systemctl --quiet enable mysql

# The package's own asks the server to open its log anew, as an account that is not here.
cat >/etc/logrotate.d/mysql-server <<'FILE'
# Written by relaunch: script install_mysql.sh. Change the script, not this file.
/var/log/mysql/error.log {
	weekly
	rotate 8
	copytruncate
	compress
	missingok
	notifempty
	su mysql adm
}
FILE

if [ ! -e /var/lib/mysql/relaunch-group ]; then
  install -d -o mysql -g mysql -m 750 /var/lib/mysql
  find /var/lib/mysql -mindepth 1 -delete
  server=(mysqld --no-defaults --user=mysql --datadir=/var/lib/mysql --innodb-redo-log-capacity=32M --mysqlx=OFF
    --secure-file-priv=NULL --skip-log-bin --log-error-verbosity=1)
  "${server[@]}" --initialize-insecure
  # root logs in over the local socket, as the system's root and with no password. No plugin is loaded at the making.
  install -o mysql -m 600 /dev/stdin /var/lib/mysql/init.sql <<SQL
ALTER USER 'root'@'localhost' IDENTIFIED WITH auth_socket;
SHUTDOWN;
SQL
  timeout 120 "${server[@]}" --skip-networking --socket=/var/lib/mysql/making.sock --pid-file=/var/lib/mysql/making.pid \
    --plugin-load-add=auth_socket.so --init-file=/var/lib/mysql/init.sql
  rm -f /var/lib/mysql/init.sql
  # Each instance is a server of its own, with a certificate of our CA.
  rm -f /var/lib/mysql/auto.cnf /var/lib/mysql/*.pem /var/lib/mysql/binlog.*
fi
echo "$(mysqld --version | awk '{print "MySQL", $3}') is installed, stopped until configured."
