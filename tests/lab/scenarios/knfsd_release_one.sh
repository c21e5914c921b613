# Single locks are freed in their owner's name: only they go, whoever waits gets the range, the client is not disturbed.
. /lab/kernel.sh
serve
# What goes to the system's log.
rm -f /dev/log /run/syslog.txt
python3 -c 'import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind("/dev/log")
while True:
    with open("/run/syslog.txt", "a") as f: f.write(s.recv(9000).decode() + "\n")' &
syslog=$!
await 10 test -S /dev/log

process A c1 a
process A2 c1 a
process B c2 a
process C c3 a
ask A lock 0 10 >/dev/null
ask A lock 20 10 >/dev/null
ask A2 lock 50 10 >/dev/null
ask B lock 100 10 >/dev/null
tell C wait 20 5
equal "C waits" "$(reply C 3)" nothing
equal "what is held" "$(ranges)" "0 9,100 109,20 29,50 59"
# connections: those of c1, 10.0.0.11
connections() { awk '$4 == "01" && $3 ~ /^0B00000A:/ { print $2, $3 }' /proc/net/tcp | sort; }
connected=$(connections)

# --- a lock that is not there as it was named, and a dry run
one --file /srv/x/a --range 20:9
equal "other bytes than those of a lock are none" "$code $(told .error.exit)" "2 2"
knfsd release --file /srv/x/a --range 20:10 --dry-run >/run/report.json 2>/run/release.err
equal "the plan names the path and who waits, if lockd keeps it" \
    "$(told '.release.locks | map(.path) | unique | join(" ")') $(told .release.chosen)" "/srv/x/a 1"
equal "a dry run frees nothing" "$(ranges)" "0 9,100 109,20 29,50 59"

# --- one lock of a process, with a waiter behind it
one --file /srv/x/a --range 20:10
equal "it is free" "$code $(told '.release.released | "\(.locks) \(.left)"')" "0 1 0"
equal "the waiter gets the range" "$(reply C 60)" granted
equal "others are as they were" "$(ranges)" "0 9,100 109,20 24,50 59"
check "no rule or route is left" no_traces
equal "the connections of its client are as they were" "$(connections)" "$connected"
equal "the log has it" "$(grep -c 'UNLOCK in the name of c1.*bytes 20-29' /run/syslog.txt)" 1

# --- the client that was not told goes on
equal "A locks again" "$(ask A lock 200 10)" granted
equal "A unlocks what it has" "$(ask A unlock 0 10)" unlocked
are() { [ "$(ranges)" = "$1" ]; }
await 10 are "100 109,20 24,200 209,50 59"
equal "lockd took both" "$(ranges)" "100 109,20 24,200 209,50 59"

# --- by process
one --client c1 --file /srv/x/a --owner "$(of /srv/x/a 50 .owner.svid)"
equal "A2's lock is free, A's is not" "$code $(ranges)" "0 100 109,20 24,200 209"

# --- a client that is dead
on vm "ip link set vc2 down"
knfsd release --yes --file /srv/x/a --range 100:10 >/run/report.json 2>/run/release.err
code=$?
note "exit $code; $(jq -c .release.released /run/report.json)"
equal "a dead client's lock is free without --live" "$code $(ranges)" "0 20 24,200 209"
on vm "ip link set vc2 up"

# --- many at once
process D c3 b
ask D comb 0 40 >/dev/null
equal "forty more are held" "$(lock_set | wc -l)" 42
one --file /srv/x/b
equal "all forty are free" "$code $(told .release.released.locks) $(lock_set | wc -l)" "0 40 2"

kill $syslog
verdict
