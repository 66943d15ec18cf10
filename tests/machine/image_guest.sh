#!/bin/sh
# Inside the machine of tests/machine/image.py, as a service beside those of the image. $1 is the test's folder on
# the machine that runs it, which stands below /run/host. Prints `EVENT name` and `FACT name value`; ends in power off.
folder=$1
home=/var/lib/edge-runtime

option() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"; }
event() { echo "EVENT $*"; }
fact() { echo "FACT $*"; }
within() { # SECONDS COMMAND...: until it succeeds
    deadline=$(($(date +%s) + $1))
    shift
    until "$@"; do
        if [ "$(date +%s)" -gt $deadline ]; then return 1; fi
        sleep 0.3
    done
}
send() { edgectl send --stream s "$1" >/dev/null; }
served() { [ -S $home/ingest.sock ]; }
cloud() { chroot /run/host "$(option trial.python)" -m runtime devcloud "$@"; }
start_cloud() { # on the machine that runs the test, prepared before; here it stands in memory
    mkdir /run/cloud
    cp -a "/run/host$folder/cloud/." /run/cloud
    rm -f /run/cloud/devcloud.json
    mount --bind /run/cloud "/run/host$folder/cloud"
    for name in proc dev; do mount --bind /$name /run/host/$name; done
    address=$(cat "/run/host$folder/address")
    cd /run/host || return
    cloud --dir "$folder/cloud" --address "$address" --https-port 0 >/run/cloud.log 2>&1 &
}
approved() { cloud approve --dir "$folder/cloud" --all 2>&1 | grep -q approved; }
arrived() { cloud messages --dir "$folder/cloud" | grep -q .; }
stored() { /usr/lib/edge-runtime/bin/python -I -c "
import sqlite3
db = sqlite3.connect('file:$home/state/messages.db?mode=ro', uri=True)
print(db.execute('SELECT $1').fetchone()[0])"; }

since() { # MOMENT UNIT: the seconds from the start of the kernel to a unit's moment
    echo "$2 $1 $(systemctl show --value --property="$1TimestampMonotonic" "$2" | sed 's/......$//') s"
}
facts() {
    fact machine-id "$(cat /etc/machine-id)"
    fact hostname "$(cat /proc/sys/kernel/hostname)"
    fact store "$(stored 'uuid FROM store')"
    fact next-id "$(stored 'next_id FROM store')"
    fact messages "$(stored 'count(*) FROM messages WHERE stream = (SELECT id FROM streams WHERE stream = char(115))')"
    fact device "$(edgectl identity --json | sed -n 's/.*"device_id": "\([^"]*\)".*/\1/p' | head -n 1)"
    fact slot "$(cat /boot/booted)"
    fact choice "$(tr '\n' ' ' </boot/choice)"
    fact update "$(edgectl update status --json | tr -d '\n')"
    fact state-kib "$(df -k --output=size /state | tail -n 1)"
    fact writable "$(awk '$4 ~ /^rw/ && $3 !~ /^(proc|sysfs|cgroup2?|devpts|hostfs|bpf|debugfs|tracefs|mqueue|selinuxfs|securityfs)$/ { print $2 }' \
        /proc/mounts | grep -v '^/run/' | sort | tr '\n' ' ')"
    fact starts "$(for unit in sysinit.target basic.target edge-runtime.service; do
        since ActiveEnter $unit
    done | tr '\n' ' '; since ExecMainStart edge-runtime.service)"
    fact failed "$(systemctl list-units --failed --no-legend --plain | awk '{ print $1 }' | tr '\n' ' ')"
}

if within 240 served && send "$(cat /proc/sys/kernel/random/boot_id)"; then event stored; fi
if [ "$(option trial)" = cloud ]; then
    start_cloud
    within 240 [ -e "/run/host$folder/shown" ] # a person reads the code, and then approves
    if within 240 approved; then event approved; fi
    if within 240 arrived; then event delivered; fi
    within 120 edgectl identity >/dev/null
fi
case "$(option trial)" in
    update) if edgectl update apply "/run/host$(option trial.bundle)"; then event applied; fi ;;
    confirmed) if within 300 grep -qx trial= /boot/choice; then event confirmed; fi ;;
esac
facts
event finished
sync
systemctl poweroff --force
