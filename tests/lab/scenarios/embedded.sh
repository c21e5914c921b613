# The NFS server with the lock manager inside: locks of kernel clients and of processes on the server exclude each other,
# also while a run has them pending, and a restart of the server costs the clients nothing.
. /lab/server.sh
serve_embedded
mount_on c1
mount_on c2
process A c1 a
process B c2 a
# local_lock START LENGTH: what a process on the server gets
local_lock() { python3 -IS /lab/locker.py $EXPORT/a <<<"lock $1 $2" | tail -n 1; }

equal "a client locks a range" "$(ask A lock 0 10)" granted
equal "another client does not get it" "$(ask B lock 5 10)" refused
equal "nor does a process on the server" "$(local_lock 5 10)" refused
equal "which gets another range" "$(local_lock 20 10)" granted

note "a process on the server is first"
mkfifo /run/local
python3 -IS /lab/locker.py $EXPORT/a <>/run/local >/run/local.out &
echo $! >/run/server.local.pid
echo "lock 50 10" >/run/local
check "it has the range" await 20 grep -q granted /run/local.out
equal "no client gets it" "$(ask A lock 55 1)" refused

note "runs"
tell B wait 0 10
check "a waiter is queued" await 20 counts '.state == "waiting"' 1
for mode in strict targeted; do
    resync --mode $mode
    equal "$mode: exit code" $code 0
    equal "$mode: all was reclaimed" "$(told '.locks | "\(.in_scope) \(.reclaimed)"')" "1 1"
    equal "$mode: a process on the server does not get it" "$(local_lock 5 10)" refused
done
on vm ip link set vc1 down
resync --mode strict --grace 4s --unreachable keep
equal "c1 is cut off, and its lock kept" "$(told '.locks | "\(.in_scope) \(.kept)"')" "1 1"
equal "a process on the server still does not get it" "$(local_lock 5 10)" refused
on vm ip link set vc1 up

note "the server crashes and comes back"
before=$(locks '.state == "held"')
crash nfs
start_nfs --state-dir $STATE --name srv.lab --name srv --grace 20s
check "it is in recovery" grace_is recovery
check "the lock was reclaimed" await 15 counts '.state == "held"' 1
equal "it is the same" "$(locks '.state == "held"')" "$before"
equal "a process on the server does not get it" "$(local_lock 5 10)" refused
check "grace ends" await 60 grace_is open
equal "the holder lets go" "$(ask A unlock 0 10)" unlocked
equal "the waiter has it" "$(reply B)" granted
equal "a process on the server still does not get it" "$(local_lock 5 10)" refused
stop A B
check "no client holds a lock" await 20 counts true 0
equal "then a process on the server gets it" "$(local_lock 5 10)" granted
equal "no reclaim failed on the clients" "$(complaints | grep -i reclaim)" ""
verdict
