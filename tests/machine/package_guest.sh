#!/bin/sh
# Inside the machine of tests/machine/systemd.py: the maintainer scripts' systemctl lines under a live systemd.
# $1 is the checkout; /srv has before.deb and now.deb, and two updates of it: good.update, and bad.update, which dies.
top=$1
# shellcheck source=tests/machine/guest.sh
. "$top/tests/machine/guest.sh"
export DEBIAN_FRONTEND=noninteractive
etc=/etc/edge-runtime/edge.toml
drop_in=/etc/systemd/system/edge-runtime.service.d

send_many() { seq "$1" | edgectl send --stream s --lines; }
kept() {
    backlog_is 20 && grep -q '^# changed by hand' $etc && [ "$(systemctl show -P WatchdogUSec edge-runtime)" = 50s ]
}
loaded() { [ "$(systemctl show -P NeedDaemonReload edge-runtime)" = no ]; }
unit_is() { [ "$(systemctl show -P LoadState edge-runtime)" = "$1" ]; }
version_is() { edgectl version | grep -q "^package *$1"; }
in_use() { [ "$(basename "$(readlink /opt/edge-runtime)")" = "$1" ]; }
runs_from() { grep -qz "^$1/" "/proc/$(main_pid)/cmdline"; }
says() { edgectl update status | grep -q "$1"; }

changes_to() { # WHAT PACKAGE VERSION: what runs is replaced, and nothing is lost
    pid=$(main_pid)
    check "$1" dpkg -i "/srv/$2.deb"
    check "the service was restarted by it" within 200 another_than "$pid"
    check "every worker runs" within 300 all_run
    check "of the version that was installed" version_is "$3"
    check "systemd knows the unit of today" loaded
    check "backlog, changed edge.toml and drop-in are kept" kept
}

updates() { # by edge-runtime-update.service, which nobody but systemd starts here
    printf '\n[update]\nkeys = ["%s"]\nconfirm_s = 120\n' "$(sed -n 2p /srv/update.pub)" >>$etc
    check "a good update is applied" edgectl update apply /srv/good.update
    check "it is in use" in_use 0.2.0
    check "every worker runs" within 300 all_run
    check "of its tree" runs_from /opt/edge-runtime.d/0.2.0
    check "a bad update is said not to stay" refuses edgectl update apply /srv/bad.update
    check "with its reason" says "0.3.0 came back: "
    check "the good one is in use" in_use 0.2.0
    check "every worker of it runs" within 300 all_run
    check "of its tree, too" runs_from /opt/edge-runtime.d/0.2.0
    check "the way back" edgectl update rollback
    check "ends at the package" refuses in_use 0.2.0
    check "every worker of the package runs" within 300 all_run
    check "of /usr/lib" runs_from /usr/lib/edge-runtime
}

first_boot() {
    check "install" dpkg -i /srv/before.deb
    check "it is enabled" systemctl is-enabled edge-runtime
    check "and runs at once" within 300 all_run
    echo '# changed by hand' >>$etc
    mkdir -p $drop_in
    printf '[Service]\nWatchdogSec=50\n' >$drop_in/own.conf
    systemctl daemon-reload
    check "twenty messages are acknowledged" send_many 20
    changes_to upgrade now 0.1.0
    changes_to downgrade before 0.0.9
    changes_to "upgrade again" now 0.1.0
}

second_boot() {
    check "it is enabled after a boot" systemctl is-enabled edge-runtime
    systemctl start edge-runtime   # our small target is not the one that wants it
    check "every worker runs" within 300 all_run
    check "backlog, changed edge.toml and drop-in are there" kept
    changes_to "the same again" now 0.1.0
    systemctl stop edge-runtime
    systemctl disable edge-runtime
    check "the same again, where an operator disabled it" dpkg -i /srv/now.deb
    check "it stays disabled" refuses systemctl is-enabled edge-runtime
    check "and is not started" refuses active
    systemctl enable --now edge-runtime
    check "enabled again, every worker runs" within 300 all_run
    check "remove" dpkg --remove edge-runtime
    check "it was stopped, and leaves no process" nothing_left
    check "systemd knows no unit of it" refuses unit_is loaded
    check "messages stay" [ -e $home/state/messages.db ]
    check "and the configuration" [ -e $etc ]
    check "purge" dpkg --purge edge-runtime
    check "undelivered messages stay" [ -e $home/state/messages.db ]
    check "drop-ins stay" [ -e $drop_in/own.conf ]
    check "install after the purge" dpkg -i /srv/now.deb
    check "it is enabled again" systemctl is-enabled edge-runtime
    check "and every worker runs" within 300 all_run
    check "with the twenty messages" backlog_is 20
    updates
    check "purge of all" env EDGE_PURGE=all dpkg --purge edge-runtime
    check "leaves no process" nothing_left
    check "and no message" [ ! -e $home ]
}

boots first_boot second_boot
