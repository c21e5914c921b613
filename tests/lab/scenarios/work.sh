# Clients that work through a run: three processes add to one number under a lock that they fight for, while others hold
# two hundred locks. No addition is lost, and no lock.
. /lab/server.sh
serve
mount_on c1
mount_on c2
mount_on c3
process HOLD1 c1 a
process HOLD2 c2 b
process ADD1 c1 number
process ADD2 c2 number
process ADD3 c3 number
equal "two processes hold a hundred locks each" "$(ask HOLD1 comb 0 100) $(ask HOLD2 comb 0 100)" "granted granted"
held=$(locks)
same_locks() { [ "$(locks)" = "$held" ]; }
number() { cut -c1-20 $EXPORT/number | sed 's/^0*//'; }
complaints >/dev/null

# The clients' kernel keeps one list of blocked locks for all its namespaces (seen in 6.1): a GRANTED for one of them wakes
# those of the others that wait for the same range with the same number of process. So no two wait for the same range.
tell ADD1 count 25 100
tell ADD2 count 25 101
tell ADD3 count 25 102
for mode in targeted strict targeted; do
    before=$(number)
    resync --mode $mode
    equal "$mode: exit code" $code 0
    check "$mode: the two hundred were in scope" [ "$(told .locks.in_scope)" -ge 200 ]
    note "the number went from $before to $(number)"
done
added1=$(reply ADD1 150) added2=$(reply ADD2 150) added3=$(reply ADD3 150)
note "added by each: $added1 $added2 $added3"
check "each got its turn" [ "$added1" -gt 5 -a "$added2" -gt 5 -a "$added3" -gt 5 ]
equal "no addition was lost" "$(number)" "$((added1 + added2 + added3))"
stop ADD1 ADD2 ADD3
check "the same locks are held" await 20 same_locks
equal "no reclaim failed on the clients" "$(complaints | grep -i reclaim)" ""
verdict
