# A forced resync of live clients costs them nothing: five runs in a row in each mode, then a narrower one, with a
# waiter in the queue. The clients mounted the server by its short name, by its full one, and by an alias address.
. /lab/server.sh
serve
mount_on c1 srv
mount_on c2 srv.lab
mount_on c3 10.0.0.2

process A c1 a
process A2 c1 b
process B c2 a
process C c3 a
process OTHER c2 a
process OTHER2 c3 b
process OTHER3 c1 a
granted=$(ask A lock 0 10; ask A share 50 10; ask A2 lock 0 0; ask B lock 100 10; ask B share 50 10; ask C lock 200 10)
equal "three clients hold six locks" "$(xargs <<<"$granted")" "granted granted granted granted granted granted"
before=$(locks)
complaints >/dev/null

kept_all() { # WHAT LOCKS-IN-SCOPE
    equal "$1: exit code" $code 0
    equal "$1: every lock was reclaimed" "$(told '.locks | "\(.in_scope) \(.reclaimed)"')" "$2 $2"
    equal "$1: the same locks are held" "$(locks)" "$before"
    check "$1: another client gets none of them" nobody_gets_any
    equal "$1: the clients' kernels have no complaint" "$(complaints)" ""
}
nobody_gets_any() {
    excluded OTHER lock 0 10 && excluded OTHER2 lock 5 1 && excluded OTHER3 lock 100 10 && excluded OTHER3 lock 200 10
}

for round in 1 2 3 4 5; do
    note "strict, round $round"
    resync
    kept_all "strict $round" 6
    equal "strict $round: every client acked" "$(fate c1) $(fate c2) $(fate c3)" "acked acked acked"
done
for round in 1 2 3 4 5; do
    note "targeted, round $round"
    resync --mode targeted
    kept_all "targeted $round" 6
done
note "one client"
resync --client c1
equal "the mode of a narrower run" "$(told .run.mode)" targeted
kept_all "c1 alone" 3

note "a waiter"
process WAITER c2 a
tell WAITER wait 0 10
check "it is queued" await 20 counts '.state == "waiting"' 1
for mode in strict targeted; do
    resync --mode $mode
    equal "$mode: exit code" $code 0
    equal "$mode: the waiter was not told yet" "$(reply WAITER 1)" nothing
    check "$mode: it is queued once" await 40 counts '.state == "waiting"' 1
    equal "$mode: the range has the one holder" "$(locks '.state == "held" and .start == 0 and .end == 9' | cut -d' ' -f2)" c1
done
equal "the holder lets go" "$(ask A unlock 0 10)" unlocked
equal "the waiter has it" "$(reply WAITER 60)" granted
equal "it is told once" "$(reply WAITER 2)" nothing
check "nobody waits any more" await 20 counts '.state == "waiting" or .state == "offered"' 0
equal "one holds it" "$(locks '.state == "held" and .start == 0 and .end == 9' | cut -d' ' -f2)" c2
equal "the old holder does not get it" "$(ask A lock 0 10)" refused
equal "the clients' kernels have no complaint" "$(complaints)" ""
verdict
