# Reboots: of a client, whose rpc.statd and sm-notify tell nlmd; and of nlmd, which tells the clients.
. /lab/server.sh
serve
mount_on c1
mount_on c2
process A c1 a
process B c2 b
process OTHER c2 a
process OTHER1 c1 b
equal "two clients hold a lock each" "$(ask A lock 0 10) $(ask B lock 0 10)" "granted granted"

process WAITER c2 a
process NEW c2 a
tell WAITER wait 0 10
check "a third one waits" await 20 counts '.state == "waiting"' 1

note "nlmd crashes and comes back"
before=$(locks '.state == "held"')
complaints >/dev/null
crash nlmd
start_nlmd --grace 25s
tell NEW wait 1000 10
check "nlmd is in recovery" grace_is recovery
check "the clients reclaimed their locks" await 20 counts '.state == "held"' 2
equal "they are the same" "$(locks '.state == "held"')" "$before"
equal "a new lock waits" "$(reply NEW 1)" nothing
check "grace ends" await 60 grace_is open
equal "then the new lock is granted" "$(reply NEW 40)" granted
check "the old ones exclude others" excluded OTHER lock 0 10
check "on both clients" excluded OTHER1 lock 0 10
equal "the waiter has not got its range" "$(reply WAITER 1)" nothing
check "it is queued again" await 40 counts '.state == "waiting"' 1
equal "the holder lets go" "$(ask A unlock 0 10)" unlocked
equal "the waiter has it" "$(reply WAITER)" granted
equal "no reclaim failed on the clients" "$(complaints | grep -i reclaim)" ""
stop WAITER
check "it goes with its process" await 20 counts '.start == 0' 1
equal "c1 locks it again" "$(ask A lock 0 10)" granted

# A kernel puts one NSM state into the LOCKs of all its network namespaces, that of the last statd or sm-notify started.
# nlmd spares locks that carry the state of the notice (they are of the new life), so what is to go is taken before.
note "c2 runs sm-notify as at its boot"
on c2 'sm-notify -f' </dev/null
check "its locks go" await 40 counts '.owner.name == "c2"' 0
equal "c1 keeps its own" "$(locks | cut -d' ' -f1,2,5)" "held c1 0-9"
equal "c2 locks again" "$(ask B lock 2000 10)" granted

note "c1 crashes and comes back"
on vm ". /lab/lib.sh; . /lab/clients.sh; crash_client c1"
check "its lock still excludes others" excluded OTHER lock 0 10
on vm ". /lab/lib.sh; . /lab/clients.sh; boot_client c1 10.0.0.11"
check "its reboot notice frees its lock" await 60 counts '.owner.name == "c1"' 0
equal "c2 keeps its own" "$(locks | cut -d' ' -f1,2,5)" "held c2 2000-2009"
equal "another client gets the range" "$(ask OTHER lock 0 10)" granted
mount_on c1
process AGAIN c1 a
equal "the new life of c1 is refused it" "$(ask AGAIN lock 0 10)" refused
equal "and locks what is free" "$(ask AGAIN lock 20 10)" granted
resync
equal "a resync after it: exit code" $code 0
equal "all was reclaimed" "$(told '.locks | "\(.in_scope) \(.reclaimed)"')" "3 3"
verdict
