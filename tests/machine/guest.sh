# What the guests of tests/machine/systemd.py share: a line for each trial, `fine` or `FAILED`. Sourced.
# shellcheck shell=sh
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
nothing_left() { ! pgrep -u edge-runtime; }
lo_up() { python3 -c '
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))'; }
boots() { # FIRST SECOND: the trials of this boot; a file says which one it is
    lo_up
    if [ -e /srv/second ]; then "$2"; else "$1"; touch /srv/second; sync; fi
}
