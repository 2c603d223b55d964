#!/bin/bash
# ---
# RightScript Name: Back up one schema
# Description: |-
#   A dump of one schema as it is at one moment, with its GTID position, compressed, encrypted, in the object store: to
#   be restored alone, under the same or another name, without touching what else the group holds.
# Inputs:
#   BACKUP_SCHEMA:
#     Category: Backup
#     Description: Which.
#     Input Type: single
#     Required: true
#     Default: blank
#   BACKUP_MAX_LAG:
#     Category: Backup
#     Description: Seconds a replica may lag behind; it is waited for as long as this, too, and else nothing is done.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:60
#   BACKUP_CHECK_SECONDS:
#     Category: Backup
#     Description: How long rows may be counted and summed before the dump, and again after it, smallest tables first.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:30
# Attachments:
# - backup_store.sh
# - table_checks.sh
# - schema_dump.sh
# - table_history.sh
# ...
# shellcheck disable=SC2154  # variables come from the attachment
set -euo pipefail
set -a
# shellcheck source=/dev/null
. /etc/relaunch/backup.env
set +a

work=$(mktemp -d /run/relaunch-backup.XXXXXX)
trap 'rm -rf "$work"' EXIT
# shellcheck source=attachments/backup_store.sh disable=SC1091
. "$RS_ATTACH_DIR/backup_store.sh"
# shellcheck source=attachments/table_checks.sh disable=SC1091
. "$RS_ATTACH_DIR/table_checks.sh"
# shellcheck source=attachments/schema_dump.sh disable=SC1091
. "$RS_ATTACH_DIR/schema_dump.sh"
# shellcheck source=attachments/table_history.sh disable=SC1091
. "$RS_ATTACH_DIR/table_history.sh"
[[ $BACKUP_SCHEMA =~ ^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$ ]] || stop_with "BACKUP_SCHEMA=$BACKUP_SCHEMA: letters, digits, _ and - only"
[ -n "$(sql "SELECT 1 FROM information_schema.schemata WHERE schema_name = '$BACKUP_SCHEMA'")" ] ||
  stop_with "There is no schema $BACKUP_SCHEMA here."
find_role "${BACKUP_MAX_LAG:-60}"
find_history

begun=$(date -u +%Y-%m-%dT%H:%M:%SZ)
id=$(date -u +%Y%m%dT%H%M%SZ)-schema-$(hostname)
target=$BACKUP_ROOT/schemas/$BACKUP_SCHEMA/$id
odd=$(sql "SELECT GROUP_CONCAT(table_name) FROM information_schema.tables WHERE table_schema = '$BACKUP_SCHEMA'
  AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND engine <> 'InnoDB'")
[ "$odd" = NULL ] || echo "not covered by transactions, so perhaps of another moment than the rest: $odd"

before=$(position_before)
default=$(default_of "$BACKUP_SCHEMA")
sums_of "$BACKUP_SCHEMA" "${BACKUP_CHECK_SECONDS:-30}" >"$work/before"
# The hash is taken on the way.
mkfifo "$work/fifo"
sha256sum <"$work/fifo" | cut -d' ' -f1 >"$work/sha256" &
watch_dump &
dump_schema "$BACKUP_SCHEMA" | tee >(head -c 65536 >"$work/head"; cat >/dev/null) >(tail -c 65536 >"$work/tail") |
  nice -n 19 zstd -q -T1 -3 | age -r "$BACKUP_RECIPIENT" | tee "$work/fifo" | rclone rcat "$target/dump.sql.zst.age"
wait
grep -q "^-- Dump completed" "$work/tail" || stop_with "The dump $id did not come to its end; without a manifest it does not count."
gtid=$(position_of_dump "$before")
sums_of "$BACKUP_SCHEMA" "${BACKUP_CHECK_SECONDS:-30}" >"$work/after"
sums_of_both "$work/before" "$work/after" >"$work/check"
size=$(rclone lsf --format s "$target/dump.sql.zst.age")
refuse_fenced
jq -n --arg id "$id" --arg schema "$BACKUP_SCHEMA" --arg group "$BACKUP_GROUP" --arg lineage "$lineage" --arg gtid "$gtid" \
  --arg server "$(hostname)" --arg role "$role" --arg lag "$lag" --arg dialect "$dialect" --arg version "$(sql "SELECT VERSION()")" --arg begun "$begun" \
  --arg ended "$(date -u +%Y-%m-%dT%H:%M:%SZ)" --arg sha256 "$(cat "$work/sha256")" --argjson size "$size" --slurpfile check "$work/check" \
  --argjson default "$default" --arg recipient "$BACKUP_RECIPIENT" '{format: 1, $id, kind: "schema", $schema, $group, $lineage, $server, $role, lag_seconds: ($lag | tonumber),
    $dialect, $version, $begun, $ended, $gtid, $recipient, $default, check: $check[0], stored_bytes: $size, objects: [{name: "dump.sql.zst.age", size_bytes: $size, $sha256}]}' |
  rclone rcat "$target/manifest.json"
jq -r --arg what "$BACKUP_SCHEMA at $gtid: $size bytes" '"\($what), \(.tables | length) tables summed, \(.unchecked | length) not"' "$work/check"
echo "BACKED-UP $id"
