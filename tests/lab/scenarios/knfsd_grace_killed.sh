# What stands in front of the kernel's lockd is killed: no live lock is lost, and what is not sure is said.
. /lab/grace.sh
end_keeper
serve
process A c1 a
process B c2 b
process C c3 c
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks" "$(ask B lock 0 10)" granted
equal "C locks" "$(ask C lock 0 10)" granted
before=$(ranges)
# slow_run: one that c3 holds up, in the background
slow_run() {
    on vm "ip link set vc3 down"
    start_run
}
on vm dmesg -c >/dev/null

# --- nlmctl: the run goes on, and is gone on with
slow_run
await 30 reclaimed 2
kill -KILL $run
wait $run 2>/dev/null
check "the run goes on without nlmctl" begun
on vm "ip link set vc3 up"
knfsd resync --resume >/run/report.json 2>/run/resync.err
equal "resumed: all is reclaimed" "$(told .run.outcome) $(sums)" "settled 3 3 0 0 0 0"

# --- nlmctl, for good: it settles alone, and the next command fetches what came of it
slow_run
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
slow_run
killed=$(filter)
kill -KILL $killed
on vm "ip link set vc3 up"
wait $run
another() { [ -n "$(filter)" ] && [ "$(filter)" != "$killed" ]; }
check "there is another filter" another
equal "all is reclaimed" "$(told .run.outcome) $(sums)" "settled 3 3 0 0 0 0"
equal "no client complains" "$(complaints)" ""

# --- the keeper: the run is over, and nothing was dropped
slow_run
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

# --- nlmctl and the keeper: the method that was asked for is the one that is planned
await 60 no_run
held=$(ranges)
slow_run
await 30 reclaimed 2
kill -KILL $run
wait $run 2>/dev/null
killed=$(keeper)
kill -KILL "$killed"
await 20 gone
on vm "ip link set vc3 up"
nlmctl --manager knfsd resync --method reboot --dry-run >/run/plan.txt 2>&1
check "--method reboot is planned as such" grep -qE 'drop every lock by a signal|NFS service stops' /run/plan.txt
equal "all is held" "$(ranges)" "$held"
equal "an unsure lock can be released while that run's result waits" \
    "$(knfsd release --dry-run --file /srv/x/b | jq .release.chosen)" 1

# --- lockd itself is in grace: superseded at once, nothing is dropped
await 60 no_run
slow_run
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
