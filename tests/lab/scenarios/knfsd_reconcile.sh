# Rounds of `reconcile` in front of the kernel's lockd: quiet while all is well; a client that rebooted without a word loses the
# locks that it forgot, in the second round that finds it so; the others are asked nothing and lose nothing.
. /lab/grace.sh
end_keeper
serve
process A c1 a
process B c2 b
process C c3 c
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks" "$(ask B lock 0 10)" granted
equal "C locks" "$(ask C lock 0 10)" granted
before=$(lock_set)

# round NAME: its words are in /run/round.txt, its exit code in $code
round() {
    nlmctl --manager knfsd --db /run/runs.db --name srv.lab --name srv reconcile --grace 15s \
        >/run/round.txt 2>/run/round.err
    code=$?
    note "$1: exit $code: $(cat /run/round.txt /run/round.err | grep -v '^ *$' | tail -n 8 | tr '\n' '|')"
    end_keeper
}
round "the first round"
equal "the first round is quiet" "$code $(cat /run/round.txt)" "0 "
resync --grace 20s --grace-max 20s
equal "a run is on record in which all is reclaimed" "$code $(sums)" "0 3 3 0 0 0 0"
end_keeper
round "a round after it"
equal "a round after it is quiet" "$code $(cat /run/round.txt)" "0 "
equal "the same locks" "$(lock_set)" "$before"

note "c2 reboots, and its notice reaches nobody"
number=$(state)
on vm '. /lab/lib.sh; . /lab/clients.sh; crash_client c2
    # Its sm-notify tells a host that is not there.
    cd /disk/c2/sm && cat * | sed "s/srv[.a-z]*/10.0.0.99/" >/run/record && rm -f * && mv /run/record 10.0.0.99
    boot_client c2 10.0.0.12'
on vm dmesg -c >/dev/null
equal "its lock is still there" "$(lock_set)" "$before"
round "the first round that finds it so"
equal "one round is not enough: no run is made" "$code $(state) $(cat /run/round.txt)" "0 $number "
equal "its lock stays" "$(lock_set)" "$before"
round "the second one"
equal "it names the client and what it lost" "$code $(grep -c '^c2 .*1 lock dropped' /run/round.txt)" "3 1"
equal "its lock is gone, and no other" "$(lock_set)" "$(grep -v ":$(stat -c %i /srv/x/b) " <<<"$before")"
equal "the other clients are not asked to reclaim" "$(on vm dmesg -c | grep -c reclaim)" 0
round "the round after"
equal "then all is quiet again" "$code $(cat /run/round.txt)" "0 "
equal "A and C hold what they had" "$(ask A unlock 0 10) $(ask C unlock 0 10)" "unlocked unlocked"
verdict
