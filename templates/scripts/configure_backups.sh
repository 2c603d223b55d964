#!/bin/bash
# ---
# RightScript Name: Configure backups
# Description: |-
#   Where backups go and to whom they are encrypted, in a file only root reads; then the program that ships the binary
#   log, which runs everywhere and works on the primary only. For MariaDB and for MySQL, whichever is here.
# Inputs:
#   BACKUP_STORE_ENDPOINT:
#     Category: Backup
#     Description: Address of the S3 object store.
#     Input Type: single
#     Required: true
#   BACKUP_STORE_BUCKET:
#     Category: Backup
#     Description: Bucket there.
#     Input Type: single
#     Required: true
#   BACKUP_STORE_ACCESS_KEY:
#     Category: Backup
#     Description: Who we are there.
#     Input Type: single
#     Required: true
#   BACKUP_STORE_SECRET_KEY:
#     Category: Backup
#     Description: What proves it.
#     Input Type: single
#     Required: true
#   BACKUP_RECIPIENT:
#     Category: Backup
#     Description: The public age key backups are encrypted to. The private one is not needed here, and is not here.
#     Input Type: single
#     Required: true
#   BACKUP_GROUP:
#     Category: Backup
#     Description: Folder in the bucket; by default the database group of this server.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   BACKUP_QUEUE_BYTES:
#     Category: Backup
#     Description: So much binary log may wait on this server's disk for a store that is down, before that is an alarm.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:4294967296
# Attachments:
# - ship_binlogs.py
# - binlog_store.py
# - binlog_server.py
# - mariadb_binlogs.py
# - binlog_events.py
# - mysql_binlogs.py
# - gtid_sets.py
# ...
set -euo pipefail

[[ $BACKUP_QUEUE_BYTES =~ ^[0-9]*$ ]] || { echo "BACKUP_QUEUE_BYTES must be a number of bytes, not $BACKUP_QUEUE_BYTES" >&2; exit 1; }
dialect=mariadb config=/etc/mysql/mariadb.conf.d/90-relaunch.cnf
if ! command -v mariadbd >/dev/null; then dialect=mysql config=/etc/mysql/mysql.conf.d/zz-90-relaunch.cnf; fi
group=${BACKUP_GROUP:-$(relaunch-local get database.group)}
state=/var/lib/relaunch-backup
install -d -m 700 "$state"

# Our own store's certificate is signed by the controller's authority, one elsewhere by a public one: both are trusted.
cat /etc/ssl/certs/ca-certificates.crt /etc/relaunch/tls/ca.crt >/etc/relaunch/backup-ca.crt.new
mv -f /etc/relaunch/backup-ca.crt.new /etc/relaunch/backup-ca.crt

umask 077
{
  echo "# Written by relaunch: script configure_backups.sh. Change the script, not this file."
  while read -r name value; do printf '%s=%q\n' "$name" "$value"; done <<VALUES
BACKUP_GROUP $group
BACKUP_ROOT store:$BACKUP_STORE_BUCKET/$group
BACKUP_RECIPIENT $BACKUP_RECIPIENT
BACKUP_QUEUE_BYTES $BACKUP_QUEUE_BYTES
RCLONE_CONFIG /nonexistent/rclone.conf
RCLONE_CONFIG_STORE_TYPE s3
RCLONE_CONFIG_STORE_PROVIDER Other
RCLONE_CONFIG_STORE_ENDPOINT $BACKUP_STORE_ENDPOINT
RCLONE_CONFIG_STORE_REGION us-east-1
RCLONE_CONFIG_STORE_ACCESS_KEY_ID $BACKUP_STORE_ACCESS_KEY
RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY $BACKUP_STORE_SECRET_KEY
RCLONE_CONFIG_STORE_FORCE_PATH_STYLE true
RCLONE_CONFIG_STORE_NO_CHECK_BUCKET true
RCLONE_S3_CHUNK_SIZE 16M
RCLONE_S3_UPLOAD_CONCURRENCY 2
RCLONE_CA_CERT /etc/relaunch/backup-ca.crt
RCLONE_LOG_LEVEL ERROR
RCLONE_RETRIES 2
RCLONE_LOW_LEVEL_RETRIES 4
RCLONE_TIMEOUT 60s
VALUES
} >/etc/relaunch/backup.env.new
mv -f /etc/relaunch/backup.env.new /etc/relaunch/backup.env

install -D -m 644 -t /usr/local/lib/relaunch "$RS_ATTACH_DIR"/{binlog_store,binlog_server,"${dialect}_binlogs",binlog_events,gtid_sets}.py
install -m 755 "$RS_ATTACH_DIR/ship_binlogs.py" /usr/local/lib/relaunch/ship-binlogs
cat >/etc/systemd/system/relaunch-ship-binlogs.service <<FILE
# Written by relaunch: script configure_backups.sh. Change the script, not this file.
[Unit]
Description=Ships the binary log of the primary to the object store
ConditionPathExists=$config
After=$dialect.service
[Service]
EnvironmentFile=/etc/relaunch/backup.env
ExecStart=/usr/local/lib/relaunch/ship-binlogs $dialect
Restart=always
RestartSec=2s
Nice=5
[Install]
WantedBy=multi-user.target
FILE
systemctl daemon-reload
systemctl enable --quiet relaunch-ship-binlogs.service
systemctl restart relaunch-ship-binlogs.service
echo "Backups of group $group go to $BACKUP_STORE_ENDPOINT, bucket $BACKUP_STORE_BUCKET, encrypted to $BACKUP_RECIPIENT"
