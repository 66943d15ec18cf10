#!/bin/sh
# Put the edge runtime on a Debian-like device, bring it up to date, or take it away again.
# Running it twice changes nothing the second time.
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

opt=$root/opt/edge-runtime
etc=$root/etc/edge-runtime
state=$root/var/lib/edge-runtime
unit=$root/etc/systemd/system/edge-runtime.service
sysusers=$root/usr/lib/sysusers.d/edge-runtime.conf
command=$root/usr/local/bin/edgectl

say() { echo "edge-runtime: $*"; }
fail() { echo "install.sh: $*" >&2; exit 1; }
run() { if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi; }
have() { command -v "$1" >/dev/null 2>&1; }
live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }   # systemd itself runs here

# put MODE SOURCE TARGET: copy only what differs, so that a second run touches nothing
put() {
    if [ -f "$3" ] && cmp -s "$2" "$3"; then return; fi
    say "writing $3"
    run install -D -m "$1" "$2" "$3"
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
        run mkdir -p "$(dirname "$opt")"
        run ln -sfn "$ready_venv" "$opt"
        return
    fi
    say "installing into $opt"
    # --upgrade keeps what is there and follows a newer system Python; a newer pip only where there is an index
    newer=--upgrade-deps
    if [ -n "$wheels" ]; then newer=''; fi
    run "$python" -m venv ${newer:+"$newer"} --upgrade "$opt" 2>/dev/null || run "$python" -m venv "$opt"
    run "$opt/bin/python" -m pip --disable-pip-version-check install --quiet --upgrade \
        -c "$top/constraints.txt" ${wheels:+--no-index --find-links "$wheels"} "$source"
    if [ -n "$root" ]; then   # the scripts name their interpreter by its path on the device
        run find "$opt/bin" -type f -exec sed -i "1s|^#!$root/opt|#!/opt|" {} +
    fi
}

install_files() {
    put 644 "$top/deploy/edge.toml.example" "$etc/edge.toml.example"
    if [ ! -e "$etc/edge.toml" ]; then
        say "writing $etc/edge.toml; the platform's name and the Provisioning Token go there"
        run install -D -m 640 "$top/deploy/edge.toml.example" "$etc/edge.toml"
        run sed -i 's|^#group = .*|group = "edge-producers"|' "$etc/edge.toml"
    fi
    gid=$(awk -F: '$1 == "edge-runtime" { print $3 }' "$root/etc/group" 2>/dev/null || true)
    if [ -n "$gid" ] && [ "$(id -u)" = 0 ]; then run chown "0:$gid" "$etc/edge.toml"; fi
    put 644 "$top/deploy/edge-runtime.service" "$unit"
    if [ "$(readlink "$command" 2>/dev/null)" != /opt/edge-runtime/bin/edgectl ]; then
        run mkdir -p "$(dirname "$command")"
        run ln -sfn /opt/edge-runtime/bin/edgectl "$command"
    fi
}

start_service() {
    if ! live; then
        say "systemd does not run here; at the next boot: systemctl enable --now edge-runtime"
        return
    fi
    run systemctl daemon-reload
    run systemctl --quiet enable edge-runtime
    if [ -n "$start" ]; then run systemctl restart edge-runtime; fi
}

remove_program() {
    if live && [ -e "$unit" ]; then run systemctl --quiet disable --now edge-runtime; fi
    for path in "$unit" "$sysusers" "$command" "$opt"; do
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
        say "done. Next: systemctl --root=$root enable edge-runtime; its configuration is $etc/edge.toml"
    else
        say "done. Next: edit /etc/edge-runtime/edge.toml, then: sudo systemctl reload edge-runtime; sudo edgectl status"
    fi
}

check_user
case $action in
    install)
        check_python
        make_user
        install_program
        install_files
        [ -n "$root" ] || start_service
        next_step
        ;;
    uninstall)
        remove_program
        [ -n "$dry" ] || say "removed; configuration and state stay in /etc/edge-runtime and /var/lib/edge-runtime"
        ;;
    purge)
        remove_program
        remove_traces
        [ -n "$dry" ] || say "removed, with everything it knew"
        ;;
esac
