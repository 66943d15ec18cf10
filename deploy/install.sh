#!/bin/sh
# Put the edge runtime on a Debian-like device, bring it up to date, or take it away again.
# Running it twice changes nothing the second time. Ended at any moment, it leaves what was there in service: a new
# environment is made beside the one in use, tried, and then put in its place by one rename of a link.
set -eu

usage() {
    cat <<'TEXT'
Usage: deploy/install.sh [OPTION]...
  (none)          install or bring up to date, enable at boot, and start (again)
  --uninstall     remove program and service; configuration, identity and messages stay
  --purge         remove everything, also undelivered messages and the device's identity
  --dry-run       say what would be done, and do nothing
  --no-start      install only
  --root DIR      work on the system below DIR (an image that is being built); starts nothing
  --python FILE   interpreter for the virtual environment (default: python3; 3.11 or newer)
  --source WHAT   what pip installs: a wheel or a source folder (default: this checkout)
  --wheels DIR    take every package from DIR, ask no index (a device without a network)
  --venv DIR      use this ready virtual environment instead of making one
TEXT
}

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
action=install root='' python=python3 source=$top wheels='' ready_venv='' dry='' start=yes

while [ $# -gt 0 ]; do
    case $1 in
        --uninstall) action=uninstall ;;
        --purge) action=purge ;;
        --dry-run) dry=yes ;;
        --no-start) start='' ;;
        --root) root=${2:?--root needs a folder}; root=${root%/}; shift ;;
        --python) python=${2:?--python needs a file}; shift ;;
        --source) source=${2:?--source needs a wheel or a folder}; shift ;;
        --wheels) wheels=${2:?--wheels needs a folder}; shift ;;
        --venv) ready_venv=${2:?--venv needs a folder}; shift ;;
        -h | --help) usage; exit 0 ;;
        *) echo "install.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

opt=$root/opt/edge-runtime           # a link to the environment in use
made=$root/opt/edge-runtime.d        # environments that we made; the old one goes when the service has left it
etc=$root/etc/edge-runtime
state=$root/var/lib/edge-runtime
unit=$root/etc/systemd/system/edge-runtime.service
watch=$root/etc/systemd/system/edge-runtime-update.service
sysusers=$root/usr/lib/sysusers.d/edge-runtime.conf
command=$root/usr/local/bin/edgectl

say() { echo "edge-runtime: $*"; }
fail() { echo "install.sh: $*" >&2; exit 1; }
run() { if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi; }
have() { command -v "$1" >/dev/null 2>&1; }
live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }   # systemd itself runs here

# put MODE SOURCE TARGET: copy only what differs, so that a second run touches nothing; whole, by a rename
put() {
    if [ -f "$3" ] && cmp -s "$2" "$3"; then return; fi
    say "writing $3"
    run install -D -m "$1" "$2" "$3.new"
    run mv -f "$3.new" "$3"
}

# point LINK TARGET: there is no moment in which LINK leads nowhere
point() {
    if [ "$(readlink "$1" 2>/dev/null)" = "$2" ]; then return; fi
    run mkdir -p "$(dirname "$1")"
    run rm -rf "$1.new"   # a folder: what an older installation left, where we were ended before it was gone
    run ln -s "$2" "$1.new"
    if [ -d "$1" ] && [ ! -L "$1" ]; then   # an installation by an older version of this script
        exchange "$1" "$1.new" || { run mv "$1" "$1.old"; run mv -T "$1.new" "$1"; }
        run rm -rf "$1.new" "$1.old"
    else
        run mv -T "$1.new" "$1"
    fi
}

exchange() {
    [ -z "$dry" ] || return 0
    "$interpreter" - "$1" "$2" <<'PYTHON' 2>/dev/null
import ctypes, os, sys
AT_FDCWD, RENAME_EXCHANGE = -100, 2
one, other = map(os.fsencode, sys.argv[1:])
sys.exit(ctypes.CDLL(None).renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) != 0)
PYTHON
}

# Of two installations at once the second would build on what the first is about to remove.
take_lock() {
    [ -z "$dry" ] && have flock || return 0
    mkdir -p "$made"
    exec 9>>"$made/.lock"
    flock -n 9 || fail "another installation is under way here"
}

check_user() {
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || [ -n "$dry" ] || fail "must be run as root; try: sudo $0"
}

check_python() {
    [ -n "$ready_venv" ] && return
    have "$python" || fail "$python is missing; on Debian: apt-get install python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed; name one with --python FILE"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "the venv module is missing; on Debian: apt-get install python3-venv"
}

make_user() {
    put 644 "$top/deploy/edge-runtime.sysusers" "$sysusers"
    if grep -q '^edge-runtime:' "$root/etc/passwd" 2>/dev/null; then return; fi
    say "making user edge-runtime and group edge-producers"
    if have systemd-sysusers; then
        run systemd-sysusers ${root:+--root="$root"} "$sysusers"
    elif [ -z "$root" ]; then
        run groupadd --system --force edge-producers
        run useradd --system --user-group --groups edge-producers --home-dir /var/lib/edge-runtime \
            --no-create-home --shell /usr/sbin/nologin edge-runtime
    else
        say "systemd-sysusers is missing here; the image makes its user at first boot"
    fi
}

install_program() {
    if [ -n "$ready_venv" ]; then
        say "using the virtual environment $ready_venv"
        interpreter=$ready_venv/bin/python
        point "$opt" "$ready_venv"
        return
    fi
    interpreter=$python
    mark=$(fingerprint)
    if [ -L "$opt" ] && [ "$(cat "$opt/.made-of" 2>/dev/null)" = "$mark" ]; then
        say "$opt is up to date"
        return
    fi
    new=$made/$(date -u +%Y%m%dT%H%M%SZ)-$$
    say "installing into $new"
    trap 'in_service "$new" || rm -rf "$new"' EXIT   # whatever ends us before it is in use
    trap 'exit 130' INT TERM HUP
    # a newer pip only where there is an index
    newer=--upgrade-deps
    if [ -n "$wheels" ]; then newer=''; fi
    run mkdir -p "$made"
    run "$python" -m venv ${newer:+"$newer"} "$new"
    run "$new/bin/python" -m pip --disable-pip-version-check install --quiet \
        -c "$top/constraints.txt" ${wheels:+--no-index --find-links "$wheels"} "$source"
    run "$new/bin/python" -P -c "$trial" || fail "what was installed does not start; nothing was changed"
    if [ -n "$root" ]; then   # the scripts name their interpreter by its path on the device
        run find "$new/bin" -type f -exec sed -i "1s|^#!$root/opt|#!/opt|" {} +
    fi
    if [ -z "$dry" ]; then echo "$mark" >"$new/.made-of"; fi
    point "$opt" "edge-runtime.d/${new##*/}"   # relative: the same in an image
    trap - EXIT
}

# Whether the device starts with this environment of ours: ended in the midst of `point` it may, or not yet.
in_service() { [ "$(readlink "$opt" 2>/dev/null)" = "edge-runtime.d/${1##*/}" ]; }

trial='import azure.iot.device, requests, zmq, supervisor.supervisord, runtime.__main__, runtime.workers.upload'

# What an environment is made of: the same again need not be made again.
fingerprint() {
    folder=${source%%\[*}
    {
        echo "$source $wheels"
        "$python" -c 'import sys; print(sys.version, sys.prefix)'
        cat "$top/constraints.txt"
        if [ -f "$folder" ]; then cat "$folder"; fi
        if [ -d "$folder" ]; then
            find "$folder/runtime" "$folder/pyproject.toml" "$folder/supervisord.conf" -type f \
                ! -name '*.pyc' -exec cksum {} + | sort
        fi
        if [ -n "$wheels" ]; then find "$wheels" -type f -exec cksum {} + | sort; fi
    } 2>/dev/null | cksum
}

# What is installed last is in use: not what `edgectl update` has on trial.
end_updates() {
    for path in "$made/.trial" "$made/update.json"; do
        if [ -e "$path" ] || [ -L "$path" ]; then run rm -f "$path"; fi
    done
}

# Those that nothing uses any more, and what an installation left that was ended.
remove_old_environments() {
    if live && [ -z "$start" ]; then return; fi   # the service may still run in the one before
    for path in "$made"/*; do
        if [ -d "$path" ] && ! in_service "$path"; then run rm -rf "$path"; fi
    done
}

install_files() {
    put 644 "$top/deploy/edge.toml.example" "$etc/edge.toml.example"
    if [ ! -e "$etc/edge.toml" ]; then
        say "writing $etc/edge.toml; the platform's name and the Provisioning Token go there"
        run install -D -m 640 "$top/deploy/edge.toml.example" "$etc/edge.toml.new"
        run sed -i '/^\[ingest\]/,/^\[store\]/s|^#group = .*|group = "edge-producers"|' "$etc/edge.toml.new"
        run mv -n "$etc/edge.toml.new" "$etc/edge.toml"   # whole, or not at all
    fi
    gid=$(awk -F: '$1 == "edge-runtime" { print $3 }' "$root/etc/group" 2>/dev/null || true)
    if [ -n "$gid" ] && [ "$(id -u)" = 0 ]; then run chown "0:$gid" "$etc/edge.toml"; fi
    put 644 "$top/deploy/edge-runtime.service" "$unit"
    put 644 "$top/deploy/edge-runtime-update.service" "$watch"
    point "$command" /opt/edge-runtime/bin/edgectl
}

# Where logs and the store's reserve alone fill the disk, little is left for messages.
check_state_size() {
    place=$state
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    kib=$(df -Pk "$place" | awk 'NR == 2 { print $2 }')
    if [ "${kib:-53000}" -lt 53000 ]; then
        say "the disk of $state has $((kib / 1024)) MiB; give the state a partition of 64 MiB or more"
    fi
}

start_service() {
    if ! live; then
        say "systemd does not run here; at the next boot: systemctl enable --now edge-runtime edge-runtime-update"
        return
    fi
    run systemctl daemon-reload
    run systemctl --quiet enable edge-runtime edge-runtime-update
    if [ -n "$start" ]; then run systemctl restart edge-runtime; fi
}

remove_program() {
    if live && [ -e "$unit" ]; then run systemctl --quiet disable --now edge-runtime edge-runtime-update; fi
    for path in "$unit" "$watch" "$sysusers" "$command" "$opt" "$made"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            say "removing $path"
            run rm -rf "$path"
        fi
    done
    if live; then run systemctl daemon-reload; fi
}

remove_traces() {
    for path in "$etc" "$state" "$unit.d"; do   # the last: what systemctl edit made
        if [ -e "$path" ]; then
            say "removing $path"
            run rm -rf "$path"
        fi
    done
    for name in edge-runtime edge-producers; do
        if [ -z "$root" ] && have userdel && getent passwd "$name" >/dev/null; then run userdel "$name"; fi
        if [ -z "$root" ] && have groupdel && getent group "$name" >/dev/null; then run groupdel "$name"; fi
    done
}

next_step() {
    if [ -n "$dry" ]; then
        say "nothing was done"
    elif [ -n "$root" ]; then
        say "done. Next: systemctl --root=$root enable edge-runtime edge-runtime-update; its configuration is $etc/edge.toml"
    else
        say "done. Next: edit /etc/edge-runtime/edge.toml, then: sudo systemctl reload edge-runtime; sudo edgectl status"
    fi
}

check_user
case $action in
    install)
        check_python
        take_lock
        make_user
        install_program
        install_files
        check_state_size
        end_updates
        [ -n "$root" ] || start_service
        remove_old_environments
        next_step
        ;;
    uninstall)
        take_lock
        remove_program
        [ -n "$dry" ] || say "removed; configuration and state stay in /etc/edge-runtime and /var/lib/edge-runtime"
        ;;
    purge)
        take_lock
        remove_program
        remove_traces
        [ -n "$dry" ] || say "removed, with everything it knew"
        ;;
esac
