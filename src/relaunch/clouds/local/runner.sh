#!/bin/sh
# Keeps one instance of the local cloud running: boots it, boots it again when the guest reboots, ends when it shuts down.
# usage: runner.sh CLOUD_FOLDER INSTANCE_ID
#
# The files it reads and writes, in CLOUD_FOLDER/instances/INSTANCE_ID:
#   mount-options   the overlay's options, paths relative to CLOUD_FOLDER    (read at each boot)
#   arguments       arguments of systemd-nspawn, one a line                  (read at each boot)
#   cgroups         control groups to join, one a line; may be missing
#   running         locked as long as this script lives; holds its process id
#   ended           how the guest ended by itself; not written when we were told to stop, or killed
#
# The root file system is mounted in a mount namespace of its own, which ends with the guest: nothing is left on the host.
set -u
cd "$1" || exit 1
id=$2
own=instances/$id

exec 9>>"$own/running"
flock --timeout 5 9 || exit 0 # a second runner of the same instance; a reader of the lock holds it for a moment only
echo "$$" > "$own/running"
rm -f "$own/ended"

if [ -f "$own/cgroups" ]; then
    while IFS= read -r group; do
        echo "$$" > "$group/cgroup.procs"
    done < "$own/cgroups"
fi

# shellcheck disable=SC2016  # expanded by the inner shell
boot='
    # The volumes of another cloud of this host: a copy of the mount here would keep its loop device for as long as we run.
    while read -r device where type rest; do
        case "$type $where" in
            "btrfs $PWD/volumes/pool") ;;
            "btrfs "*/volumes/pool) umount --lazy "$where" ;;
        esac
    done < /proc/self/mounts
    mount -t overlay overlay -o "$(cat "$1/mount-options")" "$1/root" || exit 1
    while IFS= read -r argument; do set -- "$@" "$argument"; done < "$1/arguments"
    folder=$1; shift
    exec systemd-nspawn --directory="$folder/root" "$@"
'
child=
told_to_stop=
trap 'told_to_stop=yes; [ -z "$child" ] || kill -TERM "$child"' TERM

while [ -z "$told_to_stop" ]; do
    ip link delete "vb-$id" 2> /dev/null
    # Should this script be killed, the kernel kills nspawn, and with it the guest.
    setpriv --pdeathsig KILL unshare --mount --propagation slave \
        sh -c "$boot" boot "$own" < /dev/null >> "$own/console.log" 2>> "$own/runner.log" 9>&- &
    child=$!
    wait "$child"
    status=$?
    while kill -0 "$child" 2> /dev/null; do # a signal to us ends `wait` before the child has ended
        wait "$child"
        status=$?
    done
    child=
    [ "$status" -eq 133 ] || break # systemd-nspawn --keep-unit: the guest asked for a reboot
done

[ -n "$told_to_stop" ] || echo "$status" > "$own/ended"
