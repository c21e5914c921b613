# What stands in front of the kernel's lockd is killed: no live lock is lost, and what is not sure is said.
. /lab/kernel.sh
filter() { pgrep -f knfsd-filter; }
keeper() { pgrep -f knfsd-keeper; }
gone() { ! keeper >/dev/null && ! filter >/dev/null; }
# One of a scenario before has its runs in the folder that `serve` empties.
pkill -KILL -f knfsd-keeper
await 20 gone
serve
process A c1 a
process B c2 b
process C c3 c
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks" "$(ask B lock 0 10)" granted
equal "C locks" "$(ask C lock 0 10)" granted
before=$(ranges)
# begun: a run is active and its notices leave
begun() { knfsd status | jq -e .run.notices_begun >/dev/null; }
# reclaimed NUMBER
reclaimed() { knfsd status | jq -e ".run.locks.reclaimed >= $1" >/dev/null; }
no_run() { knfsd status | jq -e '.run == null' >/dev/null; }
complaints() { on vm dmesg -c | grep -iE 'reclaim'; }
# exec_nlmctl ARGUMENT...: in the background it is nlmctl itself that can be killed
exec_nlmctl() { exec nlmctl --json --manager knfsd --db /run/runs.db --name srv.lab --name srv "$@"; }
# start_run: one that c3 holds up, in the background
start_run() {
    on vm "ip link set vc3 down"
    exec_nlmctl resync --yes --grace 30s --grace-max 30s >/run/report.json 2>/run/resync.err &
    run=$!
    await 90 begun || cat /run/resync.err
}
on vm dmesg -c >/dev/null

# --- nlmctl: the run goes on, and is gone on with
start_run
await 30 reclaimed 2
kill -KILL $run
wait $run 2>/dev/null
check "the run goes on without nlmctl" begun
on vm "ip link set vc3 up"
knfsd resync --resume >/run/report.json 2>/run/resync.err
equal "resumed: all is reclaimed" "$(told .run.outcome) $(sums)" "settled 3 3 0 0 0 0"

# --- nlmctl, for good: it settles alone, and the next command fetches what came of it
start_run
await 30 reclaimed 2
kill -KILL $run
wait $run 2>/dev/null
await 60 no_run
knfsd abort >/dev/null 2>&1
knfsd runs list >/run/runs.json
equal "it has settled, and c3's lock is kept" "$(jq -r '.runs[0] | "\(.outcome) \(.locks.kept) \(.locks.dropped)"' /run/runs.json)" "settled 1 0"
equal "all is held" "$(ranges)" "$before"
on vm "ip link set vc3 up"

# --- the filter: another one takes its place
start_run
killed=$(filter)
kill -KILL $killed
on vm "ip link set vc3 up"
wait $run
another() { [ -n "$(filter)" ] && [ "$(filter)" != "$killed" ]; }
check "there is another filter" another
equal "all is reclaimed" "$(told .run.outcome) $(sums)" "settled 3 3 0 0 0 0"
equal "no client complains" "$(complaints)" ""

# --- the keeper: the run is over, and nothing was dropped
start_run
await 30 reclaimed 2
killed=$(keeper)
kill -KILL "$killed"
# Another one may serve by now; it has no run and no filter.
gone() { [ ! -e "/proc/$killed" ] && ! filter >/dev/null; }
await 20 gone
check "keeper and filter are gone" gone
wait $run
on vm "ip link set vc3 up"
knfsd abort >/dev/null 2>&1
knfsd runs list >/run/runs.json
equal "the run is superseded" "$(jq -r '.runs[0].outcome' /run/runs.json)" superseded
equal "all is held" "$(ranges)" "$before"
unsure() { knfsd locks | jq -r '[.locks[] | select(.unsure != null) | .path] | sort | join(",")'; }
equal "what its clients have is unsure" "$(unsure)" "/srv/x/a,/srv/x/b,/srv/x/c"
echo c2 >/run/told
nlmctl --db /run/runs.db notify --targets /run/told --name srv.lab --state $(($(state) + 1000)) --grace-elsewhere --yes --deadline 20s \
    >/run/told.txt 2>&1 || cat /run/told.txt
complained() { [ -n "$(on vm dmesg | grep -iE 'reclaim')" ]; }
await 30 complained
note "$(complaints)"
knfsd resync --yes --silent drop --grace 20s --grace-max 20s >/run/report.json 2>/run/resync.err
equal "a lock whose reclaim was refused is kept" "$(told .run.outcome) $(sums) $(told .locks.kept)" "settled 3 2 0 0 0 0 1"
equal "it alone is unsure now" "$(unsure)" "/srv/x/b"
equal "all is held" "$(ranges)" "$before"
equal "B unlocks" "$(ask B unlock 0 10)" unlocked
equal "B locks anew" "$(ask B lock 0 10)" granted
knfsd resync --yes --silent drop --grace 20s --grace-max 20s >/run/report.json 2>/run/resync.err
equal "its client knows it again" "$(told .run.outcome) $(sums)" "settled 3 3 0 0 0 0"
equal "nothing is unsure any more" "$(unsure)" ""
process D c2 c
equal "another client does not get what is held" "$(ask D lock 0 10)" refused
equal "and requests are served again" "$(ask D lock 50 10)" granted

# --- lockd itself is in grace: superseded at once, nothing is dropped
await 60 no_run
start_run
await 30 reclaimed 2
in_grace_soon() { in_grace; }
pkill -KILL -x lockd 2>/dev/null
echo 0 >$NFSD/threads
echo 3 >$NFSD/threads
await 20 in_grace_soon
wait $run
note "$(jq -c '[.run.outcome, .run.reason, .locks]' /run/report.json)"
equal "a restart of the server supersedes the run" "$(told .run.outcome)" superseded
on vm "ip link set vc3 up"
open_now
pkill -KILL -f knfsd-keeper
verdict
