# shellcheck shell=bash disable=SC2154,SC2016
# What ./demo and ./test have in common: checks, packages, the virtual environment. Sourced by both.
# Whatever is half done by a killed run is done again by the next one.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)

say() { printf '%s\n' "$*"; }
stop_with() { printf '\n%s\n' "$@" >&2; exit 1; }

need_root() {
  [ "$(id -u)" = 0 ] || stop_with "$1 needs root: it runs servers, a bridge and firewall rules of its own." "Run: sudo $1"
}

need_known_system() {
  # shellcheck source=/dev/null
  . /etc/os-release
  case "${ID:-}:${VERSION_ID:-}" in
    debian:12 | debian:13 | ubuntu:24.04) ;;
    *)
      [ -n "${RELAUNCH_ANY_SYSTEM:-}" ] || stop_with \
        "This is ${PRETTY_NAME:-an unknown system}; relaunch is tried on Debian 12, Debian 13 and Ubuntu 24.04." \
        "To try it here all the same: RELAUNCH_ANY_SYSTEM=1 $0"
      ;;
  esac
}

# The packages of the list that are not installed.
missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s ' "$package"
  done
}

# Debian starts and enables Knot's service at its installation; ours runs as the controller's child, on our own address.
# So the service is kept from starting for the time of our installation, then disabled. A Knot the host had before stays.
policy=/usr/sbin/policy-rc.d
policy_mark='# made by relaunch for the time of one installation'

keep_knot_from_starting() {
  mkdir -p "$state"
  touch "$state/.installing-knot"
  [ -e "$policy" ] && return
  printf '#!/bin/sh\n%s\ncase "$1" in knot*) exit 101 ;; esac\nexit 0\n' "$policy_mark" >"$policy"
  chmod 755 "$policy"
}

settle_knot() {
  if grep -qsF "$policy_mark" "$policy"; then rm -f "$policy"; fi
  [ -e "$state/.installing-knot" ] || return 0
  if [ -z "$(missing_packages knot)" ]; then
    if [ -d /run/systemd/system ]; then systemctl --quiet stop knot.service || true; fi
    systemctl --quiet disable knot.service 2>/dev/null || true
  fi
  rm -f "$state/.installing-knot"
}

# install_packages LOG PACKAGE…: only what is missing, and nothing at all when nothing is.
install_packages() {
  local log=$1 missing
  shift
  settle_knot
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  say "· installing ${missing% }"
  mkdir -p "$(dirname "$log")"
  trap settle_knot EXIT
  case " $missing" in *" knot "*) keep_knot_from_starting ;; esac
  # shellcheck disable=SC2086
  if ! { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -q update &&
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -q -y install --no-install-recommends $missing; } \
    >>"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    stop_with "The packages could not be installed; the whole output is in $log." \
      "When another apt runs, wait for it; when the network is missing, mend it; then run $0 again."
  fi
  settle_knot
  trap - EXIT
}

# wait_for_setup FOLDER: nobody else makes this environment, nor does what a killed run left behind; ours until 8 is closed.
wait_for_setup() {
  exec 8>"$1.lock"
  flock --nonblock 8 && return
  say "· waiting for an earlier run, or what it left, to end its work on $1"
  flock --timeout 600 8 || stop_with "$1 is still being made, after 10 minutes." "See who does: fuser -v $1.lock"
}

# make_environment FOLDER LOCK LOG: a virtual environment with exactly what the lock file says, made again when that changes.
make_environment() {
  local folder=$1 lock=$2 log=$3 key
  key=$( (python3 -VV; sha256sum <"$lock") | sha256sum | cut -c 1-64)
  if [ "$(cat "$folder/.made-from" 2>/dev/null)" != "$key" ]; then
    mkdir -p "$(dirname "$folder")" "$(dirname "$log")"
    wait_for_setup "$folder"
    say "· making the Python environment $folder"
    rm -rf "$folder"
    # pip inherits the lock: should this run be killed, the next one waits until the pip it left has ended.
    if ! { python3 -m venv "$folder" &&
      "$folder/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes -r "$lock"; } \
      >>"$log" 2>&1 </dev/null; then
      tail -n 15 "$log" >&2
      stop_with "The Python packages of $(basename "$lock") could not be installed; the whole output is in $log." \
        "Is the network there, and room on the disk? Then run $0 again."
    fi
    "$folder/bin/python" -m compileall -q "$here/src" || true
    exec 8>&-
  fi
  local path
  path=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/relaunch.pth
  # Written only when it changes: who runs ./test unit may not be who made the environment.
  [ "$(cat "$path" 2>/dev/null)" = "$here/src" ] || printf '%s\n' "$here/src" >"$path"
  [ "$(cat "$folder/.made-from" 2>/dev/null)" = "$key" ] || printf '%s\n' "$key" >"$folder/.made-from"
}
