# Who waits for a lock is not overtaken by a run in front of the kernel's lockd. Where that keeps no blocked request for a local
# file system, its client asks again and again.
. /lab/grace.sh
end_keeper
serve
process A c1 a
process B c2 b
process W c2 a
process X c3 a
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks" "$(ask B lock 0 10)" granted
for mode in strict targeted; do
    tell W wait 0 5
    equal "$mode: W waits" "$(reply W 3)" nothing
    queue=no
    if keeps_requests; then queue=yes; fi
    caller orphan c3 /srv/x/b
    ask orphan lock 50 10 >/dev/null
    stop orphan
    on vm dmesg -c >/dev/null
    start_run --mode $mode --silent keep
    tell X wait 0 5
    await 30 reclaimed 2 || fail "$mode: both reclaim"
    equal "$mode: nobody has A's range while A has it" "$(reply W 2) $(reply X 2)" "nothing nothing"
    equal "$mode: A gives it up" "$(ask A unlock 0 10)" unlocked
    if [ $queue = yes ]; then
        equal "$mode: who waited first has it, in the run" "$(reply W 20)" granted
        equal "$mode: the other one has not" "$(reply X 3)" nothing
        wait $run
        equal "$mode: nor after it" "$(reply X 8)" nothing
        equal "$mode: W unlocks" "$(ask W unlock 0 5)" unlocked
        equal "$mode: then the other one has it" "$(reply X 60)" granted
        equal "$mode: X unlocks" "$(ask X unlock 0 5)" unlocked
    else
        wait $run
        first=$(reply W 1)
        note "$mode: W has it: $first"
        if [ "$first" = granted ]; then set -- W X; else set -- X W; fi
        [ "$first" = granted ] || equal "$mode: X has it then" "$(reply X 90)" granted
        equal "$mode: $2 has it not" "$(reply "$2" 3)" nothing
        equal "$mode: $1 unlocks" "$(ask "$1" unlock 0 5)" unlocked
        equal "$mode: then $2 has it" "$(reply "$2" 90)" granted
        equal "$mode: $2 unlocks" "$(ask "$2" unlock 0 5)" unlocked
    fi
    note "$mode: $(told .run.outcome), $(sums), kept $(told .locks.kept)"
    equal "$mode: no client complains" "$(complaints)" ""
    equal "$mode: A locks again" "$(ask A lock 0 10)" granted
done
# In the drain it would be refused.
end_keeper
knfsd release --yes --live --file /srv/x/b --range 50:10 >/dev/null 2>&1
verdict
