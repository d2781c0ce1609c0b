#!/bin/sh
# Tries the packaged relay under a real systemd: installs the package, starts, reloads, hangs, kills, seals, upgrades and purges the
# service while two people talk. Root, on a machine (or a container with systemd as PID 1) that may be thrown away.
#
#   tests/systemd.sh DIR     DIR has vchatd_*.deb and the program vchat-client
set -eu

case ${1-} in
    '' | -*)
        sed -n '2,6s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
if [ "$(cat /proc/1/comm)" != systemd ] || [ "$(id -u)" -ne 0 ]; then
    echo "not tested: systemd is not process 1 here, or this is not root"
    exit 0
fi
dir=$(cd "$1" && pwd)
work=$(mktemp -d)
people=

fail() {
    echo "FAILED: $*" >&2
    journalctl --no-pager -q -n 40 -u vchatd -u vchatd-sealed >&2 || true
    for name in ann bob; do
        [ ! -e "$work/$name" ] || { echo "$name:"; tail -n 5 "$work/$name"; } >&2
    done
    exit 1
}

end() {
    # shellcheck disable=SC2086 # the ids are words
    [ -z "$people" ] || kill $people 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT

# within SECONDS WHAT COMMAND...
within() {
    tries=$(($1 * 20))
    what=$2
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$what"
        sleep 0.05
    done
    echo "ok: $what"
}

is() {
    [ "$(systemctl show -P "$2" "$1")" = "$3" ]
}

# How often somebody was told this.
told() {
    grep -c "\"event\":\"$2\"" "$work/$1" || true
}

at_least() {
    [ "$(told "$1" "$2")" -ge "$3" ]
}

# The number of an event that each of the two is to have been told.
both() {
    at_least ann "$1" "$2" && at_least bob "$1" "$2"
}

restarted() {
    [ "$(systemctl show -P NRestarts vchatd)" -gt "$1" ] && is vchatd ActiveState active
}

invited() {
    vchatd invite --json | grep -q "vchat://$1:"
}

come() {
    link=$(vchatd invite --json --host 127.0.0.1 | sed 's/.*"link":"\([^"]*\)".*/\1/')
    # Its stdin is chat; it stays open.
    mkfifo "$work/$1.in"
    "$dir/vchat-client" "$link" --name "$1" --camera test --size 320x180 --mic tone --speaker none --display none --events json \
        --config-dir "$work/$1.d" --state-dir "$work/$1.d" <"$work/$1.in" >"$work/$1" 2>"$work/$1.err" &
    people="$people $!"
}

DEBIAN_FRONTEND=noninteractive apt-get -qq -y install "$dir"/vchatd_*.deb >"$work/apt" 2>&1 || { cat "$work/apt"; fail "the package can be installed"; }
echo "ok: the package can be installed"
is vchatd UnitFileState enabled || fail "the service is enabled"
is vchatd ActiveState inactive || fail "the service waits to be started"
systemctl start vchatd || fail "the service starts"
is vchatd ActiveState active || fail "the service is ready when start returns"
echo "ok: one command starts the service"
[ "$(stat -c %a /var/lib/private/vchatd)" = 700 ] || fail "its keys are its own"
[ "$(stat -c %U "/proc/$(systemctl show -P MainPID vchatd)")" != root ] || fail "it is not root"
within 5 "the journal has fields" sh -c 'journalctl -q -u vchatd -o json | grep -q VCHAT_FINGERPRINT'

come ann
exec 4>"$work/ann.in"
come bob
exec 5>"$work/bob.in"
within 20 "two people see each other" both first-frame 1
echo hello >&4
within 10 "what one writes the other reads" grep -q '"text":"hello"' "$work/bob"

echo 'public = "relay.example"' >>/etc/vchatd/vchatd.toml
systemctl reload vchatd || fail "the service can be reloaded"
within 5 "new settings hold after a reload" invited relay.example
echo 'listen = 7' >>/etc/vchatd/vchatd.toml
systemctl reload vchatd || fail "the service can be reloaded"
within 5 "wrong ones are told" sh -c 'journalctl -q -u vchatd | grep -q "the settings stay as they are"'
sed -i '/^listen = 7/d' /etc/vchatd/vchatd.toml
both reconnecting 1 && fail "nobody was interrupted"
echo "ok: nobody was interrupted"

# Another process of the service takes over: by the operator's wish, and by an upgrade.
first=$(systemctl show -P MainPID vchatd)
vchatd restart || fail "another process can take over"
within 10 "people go over to it" both moved 1
second=$(systemctl show -P MainPID vchatd)
[ "$second" != "$first" ] || fail "systemd knows that it is the service"
within 20 "the one before ends" [ ! -e "/proc/$first" ]
is vchatd ActiveState active || fail "the service goes on"
# Longer than its watchdog waits: the one after feeds it.
sleep 12
is vchatd MainPID "$second" || fail "the new process is the service for good"
DEBIAN_FRONTEND=noninteractive apt-get -qq -y reinstall "$dir"/vchatd_*.deb >"$work/apt" 2>&1 || { cat "$work/apt"; fail "the package can be upgraded"; }
is vchatd ActiveState active || fail "the service runs after an upgrade"
within 10 "people go over to the upgraded one" both moved 2
second=$(systemctl show -P MainPID vchatd)
within 20 "the one before ends" sh -c '[ "$(pgrep -c -x vchatd)" -eq 1 ]'
both reconnecting 1 && fail "nobody was interrupted"
echo "ok: nobody was interrupted by an upgrade"

before=$(systemctl show -P NRestarts vchatd)
kill -STOP "$(systemctl show -P MainPID vchatd)"
within 30 "a relay that hangs is started anew" restarted "$before"
within 20 "and everybody is back" both reconnected 1
before=$(systemctl show -P NRestarts vchatd)
kill -KILL "$(systemctl show -P MainPID vchatd)"
within 10 "a relay that was killed is started anew" restarted "$before"
within 20 "and everybody is back" both reconnected 2
systemctl restart vchatd
within 20 "everybody comes back after a planned restart" both reconnected 3

backup=$(vchatd backup) || fail "a backup can be made while people talk"
[ "$(stat -c %a "$backup") $(stat -c %a "$backup/identity.pem")" = "700 600" ] || fail "a backup is private"
vchatd backup /srv/backups 2>"$work/err" && fail "the sandbox holds"
grep -q 'leave DIR out' "$work/err" || fail "it says what to do: $(cat "$work/err")"
systemctl start vchatd-backup.service || fail "the daily backup works"
[ "$(find /var/lib/private/vchatd/backups -name backup.json | wc -l)" -eq 2 ] || fail "it makes another one"
both reconnecting 4 && fail "nobody was interrupted"
cp -r "$backup" "$work/backup"
systemctl stop vchatd
rm -rf /var/lib/private/vchatd
cp -r "$work/backup" /var/lib/private/vchatd
systemctl start vchatd || fail "a relay starts from its backup"
within 20 "everybody comes back to a relay that was put back from its backup" both reconnected 4
vchatd history lobby | grep -q 'ann: hello' || fail "with its chat"

systemctl start vchatd-sealed.socket vchatd-sealed.service || fail "the sealed service starts"
is vchatd ActiveState inactive || fail "the other one makes way"
main=$(systemctl show -P MainPID vchatd-sealed)
[ "$(readlink /proc/1/ns/net)" != "$(readlink "/proc/$main/ns/net")" ] || fail "it has no network of its own"
within 20 "everybody comes back to the sealed service" both reconnected 5
# Longer than its watchdog waits: it can call itself.
sleep 15
is vchatd-sealed NRestarts 0 || fail "the sealed service works"
echo "ok: the sealed service works"
echo sealed >&4
within 10 "what one writes the other reads" grep -q '"text":"sealed"' "$work/bob"
moved=$(told ann moved)
vchatd restart || fail "another sealed process can take over"
within 10 "people go over to it" both moved $((moved + 1))
within 20 "the one before ends" sh -c '[ "$(pgrep -c -x vchatd)" -eq 1 ]'
main=$(systemctl show -P MainPID vchatd-sealed)
kill -KILL "$main"
within 20 "everybody comes back when that was killed" both reconnected 6

DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge vchatd >"$work/apt" 2>&1 || { cat "$work/apt"; fail "the package can be purged"; }
for left in /var/lib/private/vchatd /var/lib/vchatd /etc/vchatd /usr/bin/vchatd; do
    [ ! -e "$left" ] || fail "purged: $left is gone"
done
echo "ok: nothing is left"
