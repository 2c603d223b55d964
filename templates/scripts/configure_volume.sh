#!/bin/bash
# ---
# RightScript Name: Configure volume
# Description: |-
#   Moves the data directory to the server's volume, if it has one, before the database starts: then snapshots of it
#   can be taken. A volume that comes as a folder is used as it is; one that comes as a device is made an LVM thin pool.
# Inputs:
#   DATA_DEVICE:
#     Category: Database
#     Description: |-
#       The volume's device, as /dev/nvme1n1, where the cloud gives devices and not folders. It is only ever formatted
#       when it holds nothing.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   SNAPSHOT_MINUTES:
#     Category: Database
#     Description: How often a snapshot is taken by the server itself; 0 for never.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:10
#   SNAPSHOTS_KEPT:
#     Category: Backup
#     Description: So many snapshots stay on the volume; fewer when it has too little room.
#     Input Type: single
#     Required: false
#     Default: text:6
# Attachments:
# - take_snapshot.py
# - snapshot_locks.py
# - volume_kinds.py
# - sql_session.py
# ...
set -euo pipefail

[[ $SNAPSHOT_MINUTES =~ ^[0-9]+$ ]] || { echo "SNAPSHOT_MINUTES must be a number of minutes, 0 for never, not $SNAPSHOT_MINUTES" >&2; exit 1; }
[[ $SNAPSHOTS_KEPT =~ ^[0-9]+$ ]] || { echo "SNAPSHOTS_KEPT must be a number of snapshots, not $SNAPSHOTS_KEPT" >&2; exit 1; }
volume=/var/lib/mysql-volume
service=mariadb
command -v mariadbd >/dev/null || service=mysql

for file in take_snapshot.py snapshot_locks.py volume_kinds.py sql_session.py; do
  install -D -m 755 "$RS_ATTACH_DIR/$file" "/usr/local/lib/relaunch/snapshots/$file"
done

if [ -n "$DATA_DEVICE" ] && ! mountpoint -q "$volume"; then
  if [ -z "$(blkid -p "$DATA_DEVICE" || true)" ]; then
    vgcreate relaunch "$DATA_DEVICE"
    lvcreate --type thin-pool --extents 95%FREE --name pool relaunch
    lvcreate --thin --virtualsize "$(blockdev --getsize64 "$DATA_DEVICE")b" --name data relaunch/pool
    mkfs.ext4 -q /dev/relaunch/data
  fi
  vgchange --activate y relaunch
  grep -q " $volume " /etc/fstab || echo "/dev/relaunch/data $volume ext4 noatime,discard 0 2" >>/etc/fstab
  mkdir -p "$volume"
  mount "$volume" # with discard: what is deleted is given back to the pool, which the snapshots live off
fi

if ! mountpoint -q "$volume"; then
  echo "This server has no volume: the data is on its own disk, and no snapshots are taken."
  exit 0
fi

if [ ! -L /var/lib/mysql ]; then
  systemctl stop "$service" 2>/dev/null || true
  if [ ! -e "$volume/data" ]; then
    rm -rf "$volume/data.new"
    cp -a /var/lib/mysql "$volume/data.new"
    mv "$volume/data.new" "$volume/data"
  fi
  rm -rf /var/lib/mysql
  ln -s "$volume/data" /var/lib/mysql
fi

# Snapshots hold on to what has changed since: before they fill the volume the oldest goes.
cat >/etc/systemd/system/relaunch-trim-snapshots.service <<'FILE'
# Written by relaunch: script configure_volume.sh. Change the script, not this file.
[Unit]
Description=Drops the oldest snapshot while the volume has too little room
[Service]
Type=oneshot
ExecStart=/usr/local/lib/relaunch/snapshots/take_snapshot.py trim
FILE
cat >/etc/systemd/system/relaunch-trim-snapshots.timer <<'FILE'
# Written by relaunch: script configure_volume.sh. Change the script, not this file.
[Timer]
OnBootSec=30s
OnUnitActiveSec=30s
AccuracySec=1s
[Install]
WantedBy=timers.target
FILE
cat >/etc/systemd/system/relaunch-take-snapshot.service <<FILE
# Written by relaunch: script configure_volume.sh. Change the script, not this file.
[Unit]
Description=Takes a snapshot of the database's volume
[Service]
Type=oneshot
ExecStart=/usr/local/lib/relaunch/snapshots/take_snapshot.py take --keep $SNAPSHOTS_KEPT
FILE
cat >/etc/systemd/system/relaunch-take-snapshot.timer <<FILE
# Written by relaunch: script configure_volume.sh. Change the script, not this file.
[Timer]
OnActiveSec=${SNAPSHOT_MINUTES}min
OnUnitActiveSec=${SNAPSHOT_MINUTES}min
[Install]
WantedBy=timers.target
FILE
systemctl daemon-reload
systemctl --quiet enable --now relaunch-trim-snapshots.timer
if [ "$SNAPSHOT_MINUTES" -gt 0 ]; then
  systemctl --quiet enable --now relaunch-take-snapshot.timer
else
  systemctl --quiet disable --now relaunch-take-snapshot.timer
fi
echo "The data is on the volume $volume, $(stat -f -c %T "$volume"), $(df -h --output=avail "$volume" | tail -n 1 | tr -d ' ') free"
