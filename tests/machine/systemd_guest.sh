#!/bin/sh
# Inside the machine of tests/machine/systemd.py: try what deploy/ promises, a line for each: `fine` or `FAILED`.
# $1 is the checkout. The second boot finds what the first one left.
top=$1
# shellcheck source=tests/machine/guest.sh
. "$top/tests/machine/guest.sh"

hardened() { systemd-analyze security --no-pager edge-runtime | grep -Eq 'exposure level.*: (0|1\.[0-7])'; }
limited() {
    [ "$(systemctl show -P MemoryMax edge-runtime)" = 536870912 ] &&
        grep -q 'Max open files *8192' /proc/"$(pid_of ingest)"/limits &&
        grep -q 'Seccomp:.*2' /proc/"$(pid_of ingest)"/status
}
gone() { [ ! -e $home ] && [ ! -e /etc/edge-runtime ] && ! getent passwd edge-runtime && ! getent group edge-producers; }
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

boots first_boot second_boot
