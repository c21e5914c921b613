# Locks of kernel clients without a run: taken, refused, shared, waited for, given back; and how nlmd is found.
. /lab/server.sh
serve
mount_on c1
mount_on c2

note "the real rpcbind has both programs, in every version, over UDP and TCP"
equal "NLM" "$(rpcinfo -p 127.0.0.1 | awk '$1 == 100021 { print $2 $3 }' | sort | xargs)" "1tcp 1udp 3tcp 3udp 4tcp 4udp"
equal "NSM" "$(rpcinfo -p 127.0.0.1 | awk '$1 == 100024 { print $2 $3 }' | sort | xargs)" "1tcp 1udp"

process A c1 a
process B c2 a
equal "a process locks a range" "$(ask A lock 0 10)" granted
equal "another client's does not get it" "$(ask B lock 5 10)" refused
equal "but gets its neighbour" "$(ask B lock 10 10)" granted
equal "nlmd lists both" "$(locks | cut -d' ' -f1,2,4,5)" $'held c1 write 0-9\nheld c2 write 10-19'
equal "read locks are shared" "$(ask A share 100 1) $(ask B share 100 1)" "granted granted"
equal "and exclude a write lock" "$(ask B lock 100 1)" refused

note "a waiter"
tell B wait 0 10
check "it is queued" await 20 counts '.state == "waiting"' 1
equal "it is not told yet" "$(reply B 1)" nothing
equal "the holder lets go" "$(ask A unlock 0 10)" unlocked
equal "the waiter has it" "$(reply B 20)" granted
check "and nobody waits any more" await 20 counts '.state == "waiting" or .state == "offered"' 0
equal "one holds it" "$(locks ".start == 0" | cut -d" " -f1,2)" "held c2"
equal "the old holder does not get it" "$(ask A lock 0 10)" refused

note "locks go with their processes"
stop A B
check "none is left" await 20 counts true 0
equal "the clients' kernels have no complaint" "$(complaints)" ""
verdict
