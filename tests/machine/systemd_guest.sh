#!/bin/sh
# Inside the machine of tests/machine/systemd.py: try what deploy/ promises, a line for each: `fine` or `FAILED`.
# $1 is the checkout. The second boot finds what the first one left.
top=$1
home=/var/lib/edge-runtime
began=$(date +%s%N)

since() { echo $(( ($(date +%s%N) - ${1:-$began}) / 1000000 )); }
tell() { printf '%-6s  %s (%s ms)\n' "$1" "$2" "$(since)"; }
check() { what=$1; shift; if "$@" >/srv/last 2>&1; then tell fine "$what"; else tell FAILED "$what"; explain; fi; }
explain() {
    { cat /srv/last; journalctl -u edge-runtime -n 15 --no-pager -o cat; tail -qn 3 $home/log/*.log; } 2>/dev/null |
        sed 's/^/|         /'
}
refuses() { ! "$@"; }
within() { # SECONDS COMMAND...: until it succeeds
    deadline=$(( $(date +%s) + $1 )); shift
    until "$@"; do
        if [ "$(date +%s)" -gt $deadline ]; then return 1; fi
        sleep 0.3
    done
}

main_pid() { systemctl show -P MainPID edge-runtime; }
pid_of() { sed -n 's/.*"pid": \([0-9]*\).*/\1/p' $home/run/"$1".status; }
active() { [ "$(systemctl is-active edge-runtime)" = active ]; }
another_than() { active && [ "$(main_pid)" != "$1" ]; }
all_run() { edgectl status --json | tee /srv/status | python3 -c '
import json, sys
workers = json.load(sys.stdin)["workers"].values()
sys.exit(not all(w["state"] == "RUNNING" and w["progress_age_s"] is not None for w in workers))'; }
send() { runuser -u "$1" -- /srv/venv/bin/python -c '
from runtime.producer import Producer
with Producer("ipc:///var/lib/edge-runtime/ingest.sock", retry_for_s=8) as producer:
    producer.put(b"x", stream="s")'; }
backlog_is() { edgectl status --json | grep -q "\"messages\": $1,"; }
hardened() { systemd-analyze security --no-pager edge-runtime | grep -Eq 'exposure level.*: (0|1\.[0-7])'; }
limited() {
    [ "$(systemctl show -P MemoryMax edge-runtime)" = 536870912 ] &&
        grep -q 'Max open files *8192' /proc/"$(pid_of ingest)"/limits &&
        grep -q 'Seccomp:.*2' /proc/"$(pid_of ingest)"/status
}
nothing_left() { ! pgrep -u edge-runtime; }
gone() { [ ! -e $home ] && [ ! -e /etc/edge-runtime ] && ! getent passwd edge-runtime && ! getent group edge-producers; }
lo_up() { python3 -c '
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))'; }

first_boot() {
    useradd member
    useradd stranger
    check "installed and started by deploy/install.sh" sh "$top/deploy/install.sh" --venv /srv/venv
    usermod -aG edge-producers member
    check "every worker runs" within 40 all_run
    check "limits and filter are in force" limited
    check "exposure is 1.7 or less" hardened
    check "a producer of the group is served" send member
    check "anybody else is not" refuses send stranger
    pid=$(main_pid)
    check "systemctl reload" systemctl reload edge-runtime
    check "every worker runs again" within 40 all_run
    sleep 2
    check "and it was no restart" [ "$(main_pid)" = "$pid" ]
    echo '[upload' >>/etc/edge-runtime/edge.toml
    check "a bad configuration is refused" refuses systemctl reload edge-runtime
    check "and nothing changes" [ "$(main_pid)" = "$pid" ]
    sed -i '$d' /etc/edge-runtime/edge.toml
    kill -9 "$pid"
    check "supervisord killed: systemd starts all again" within 40 another_than "$pid"
    check "every worker runs again" within 40 all_run
    pid=$(main_pid)
    kill -STOP "$pid"
    check "supervisord hung: the sentinel kills it" within 60 another_than "$pid"
    check "every worker runs again" within 40 all_run
    mkdir -p /etc/systemd/system/edge-runtime.service.d
    printf '[Service]\nWatchdogSec=12\n' >/etc/systemd/system/edge-runtime.service.d/quick.conf
    systemctl daemon-reload
    systemctl restart edge-runtime
    within 40 all_run
    pid=$(main_pid)
    kill -STOP "$(pid_of sentinel)" "$pid"
    check "both hung: systemd's watchdog kills and starts all" within 40 another_than "$pid"
    check "by the watchdog it was" sh -c 'journalctl -u edge-runtime | grep -q "Watchdog timeout"'
    check "every worker runs again" within 40 all_run
    rm -r /etc/systemd/system/edge-runtime.service.d
    systemctl daemon-reload
    check "another message is acknowledged" send member
    stopping=$(date +%s%N)
    check "systemctl stop" systemctl stop edge-runtime
    check "within 10 s" [ "$(since "$stopping")" -lt 10000 ]
    check "and leaves no process" nothing_left
    check "what is acknowledged is known while it is down" backlog_is 2
}

second_boot() {
    check "it is enabled" systemctl is-enabled edge-runtime
    systemctl start edge-runtime   # our small target is not the one that wants it
    check "every worker runs after a boot" within 40 all_run
    check "and both messages are there" backlog_is 2
    check "--uninstall" sh "$top/deploy/install.sh" --uninstall
    check "keeps the messages" [ -e $home/state/messages.db ]
    check "--purge" sh "$top/deploy/install.sh" --purge
    check "leaves nothing" gone
}

lo_up
if [ -e /srv/second ]; then
    second_boot
else
    first_boot
    touch /srv/second
    sync
fi
