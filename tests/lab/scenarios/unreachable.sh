# Clients that cannot answer: one that is cut off, and one whose rpc.statd was killed.
. /lab/server.sh
serve
mount_on c1
mount_on c2
process A c1 a
process B c2 b
process OTHER c2 a
process OTHER2 c1 b
equal "two clients hold a lock each" "$(ask A lock 0 10) $(ask B lock 0 10)" "granted granted"

note "c1 is cut off; policy keep"
on vm ip link set vc1 down
resync --grace 6s --unreachable keep
equal "exit code" $code 3
equal "c1's lock was kept, c2's reclaimed" "$(told '.locks | "\(.in_scope) \(.kept) \(.reclaimed) \(.dropped)"')" "2 1 1 0"
equal "the report says of whom" "$(told '.clients[] | select(.locks.kept > 0) | "\(.name) \(.fate)"')" "c1 no-answer"
equal "and of the other" "$(fate c2)" acked
check "c1's lock still excludes others" excluded OTHER lock 0 10

note "the same, policy drop"
resync --grace 6s --unreachable drop
equal "exit code" $code 3
equal "c1's lock was dropped, c2's reclaimed" "$(told '.locks | "\(.in_scope) \(.kept) \(.reclaimed) \(.dropped)"')" "2 0 1 1"
equal "the report says of whom" "$(told '.clients[] | select(.locks.dropped > 0) | "\(.name) \(.fate)"')" "c1 no-answer"
equal "another client gets its range" "$(ask OTHER lock 0 10)" granted
equal "and only that one holds it" "$(locks '.start == 0' | cut -d' ' -f2)" $'c2\nc2'

note "c1 is back"
on vm ip link set vc1 up
check "it reaches the server" await 60 excluded OTHER2 lock 0 10
complaints >/dev/null
resync
equal "it claims what is another's by now: exit code" $code 6
equal "the report has the conflict" "$(told '.clients[] | select(.locks.conflicts > 0) | .name')" c1
check "its kernel says that it lost the lock" grep -q 'failed to reclaim' <<<"$(complaints)"
equal "the new owner keeps the range" "$(locks '.start == 0' | cut -d' ' -f2)" $'c2\nc2'
stop A OTHER
check "c1 and c2 gave theirs back" await 60 counts true 1

note "c1's rpc.statd is killed"
process A c1 a
equal "c1 holds a lock" "$(ask A lock 0 10)" granted
on c1 'kill -KILL $(cat /run/rpc.statd.pid)'
resync --grace 6s
equal "exit code" $code 3
equal "its lock was kept" "$(told '.clients[] | select(.locks.kept > 0) | .name')" c1
check "c1 did not ack" [ "$(fate c1)" != acked ]
note "its fate: $(fate c1)"
process OTHER c2 a
check "its lock still excludes others" excluded OTHER lock 0 10
note "c1's rpc.statd is back"
on c1 'rpc.statd </dev/null >/dev/null 2>&1 9>&-'
resync
equal "exit code" $code 0
equal "all was reclaimed" "$(told '.locks | "\(.in_scope) \(.reclaimed)"')" "2 2"
check "its lock still excludes others" excluded OTHER lock 0 10
verdict
