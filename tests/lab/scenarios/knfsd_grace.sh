# Runs in front of the kernel's lockd: it keeps every lock, its clients reclaim, only what was forgotten goes.
. /lab/grace.sh
end_keeper
serve
process A c1 a
process B c2 b
process C c3 c
process T c2 a
process U c2 c
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks a whole file" "$(ask B lock 0 0)" granted
equal "C locks" "$(ask C lock 5 5)" granted

equal "lockd grants a lock that its client does not know" "$(orphan c1 /srv/x/a 50 10)" granted
equal "what is held" "$(ranges)" "0 9,50 59,0 EOF,5 9"
settings=$(settings)
number=$(state)
on vm dmesg -c >/dev/null
nlmctl --manager knfsd --db /run/runs.db resync --dry-run >/run/plan.txt 2>&1
check "the plan says which way is taken" grep -q "method grace: lockd keeps every lock" /run/plan.txt
check "the plan says what does not hold" grep -q "not bound by grace" /run/plan.txt

# --- strict: what was forgotten goes, all else stays
grace_run
equal "exit code" $code 3
equal "in scope, reclaimed, dropped, unverified, resurrected, conflicts" "$(sums)" "4 3 1 0 0 0"
equal "the forgotten lock alone is gone" "$(ranges)" "0 9,0 EOF,5 9"
equal "nfsd is as before" "$(settings)" "$settings"
equal "the state number was raised" "$(state)" $((number + 2))
note "$(timeline | tail -n 12)"

# --- again, while late reclaims of the first are still waited for
for round in second third; do
    grace_run
    equal "$round: exit code" $code 0
    equal "$round: sums" "$(sums)" "3 3 0 0 0 0"
    equal "$round: the same locks are held" "$(ranges)" "0 9,0 EOF,5 9"
done
equal "no client complains" "$(complaints)" ""

# --- a thief gets nothing, an abort holds all again
on vm "ip link set vc3 down"
# It must not end by itself before the abort, however slow this machine is: with one client silent it would after 30 s.
grace_run --grace 3m --grace-max 3m --quiet-time 3m &
run=$!
await 90 begun || knfsd status
tell T lock 0 10
equal "another client's request waits" "$(reply T 3)" nothing
await 30 reclaimed 2 || knfsd status
knfsd locks --pending >/run/pending.json
equal "the lock that is not reclaimed is listed as pending, and no other" \
    "$(jq -r '[.locks[] | "\(.owner.address) \(.path) \(.start)"] | join(",")' /run/pending.json)" "10.0.0.13 /srv/x/c 5"
knfsd abort >/run/abort.json 2>&1
wait $run
equal "the abort ends the run" "$(jq ".aborted != null" /run/abort.json)" true
equal "all is held as before" "$(ranges)" "0 9,0 EOF,5 9"
equal "the other client's request is refused for the lock, not for grace" "$(reply T 60)" refused

# --- it had not acked, so a reclaim of it may be refused later: whatever policy says its lock is kept until it reclaims
unsure() { knfsd locks | jq -r '[.locks[] | select(.unsure != null) | "\(.owner.address) \(.path) \(.start)"] | sort | join(",")'; }
equal "the lock of the client that had not acked is unsure" "$(unsure)" "10.0.0.13 /srv/x/c 5"
equal "status counts it" "$(knfsd status | jq .manager.unsure)" 1
grace_run --unreachable drop
equal "unsure: sums" "$(sums) $(told .locks.kept)" "3 2 0 0 0 0 1"
check "the timeline has the reason" grep -q "/srv/x/c: a reclaim of it may have been refused" <<<"$(timeline)"
on vm "ip link set vc3 up"
grace_run
equal "reclaimed: sums" "$(sums)" "3 3 0 0 0 0"
equal "nothing is unsure any more" "$(unsure)" ""

# --- a client that does not answer: kept, then dropped
on vm "ip link set vc3 down"
grace_run
equal "kept: exit code" $code 3
equal "kept: sums" "$(sums) $(told .locks.kept)" "3 2 0 0 0 0 1"
grace_run --unreachable drop
equal "dropped: exit code" $code 3
note "$(timeline | grep kept)"
equal "dropped: sums" "$(sums) $(told .locks.kept)" "3 2 1 0 0 0 0"
equal "its lock alone is gone" "$(ranges)" "0 9,0 EOF"
on vm "ip link set vc3 up"

# --- targeted: others go on
equal "lockd grants another" "$(orphan c1 /srv/x/a 70 10)" granted
grace_run --client c1 &
run=$!
await 90 begun
equal "a client that is not involved locks at once" "$(ask U lock 100 10)" granted
wait $run
code=$?
equal "targeted: the forgotten lock alone is gone" "$(ranges)" "0 9,0 EOF,100 109"
equal "no client complains" "$(complaints)" ""
ask U unlock 100 10 >/dev/null

# --- a lock is let go, and taken
ask A unlock 0 10 >/dev/null
equal "what its owner lets go is free" "$(ask T lock 0 10)" granted
pkill -KILL -f knfsd-keeper
verdict
