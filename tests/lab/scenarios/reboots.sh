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

note "nlmd crashes and comes back"
before=$(locks)
complaints >/dev/null
crash_nlmd
start_nlmd --grace 15s
process NEW c2 a
tell NEW wait 1000 10
check "nlmd is in recovery" grace_is recovery
check "the clients reclaimed their locks" await 14 counts 'true' 2
equal "they are the same" "$(locks)" "$before"
equal "a new lock waits" "$(reply NEW 1)" nothing
check "grace ends" await 30 grace_is open
equal "then the new lock is granted" "$(reply NEW 40)" granted
check "the old ones exclude others" excluded OTHER lock 0 10
check "on both clients" excluded OTHER1 lock 0 10
equal "no reclaim failed on the clients" "$(complaints | grep -i reclaim)" ""

note "c1 crashes and comes back"
on vm ". /lab/lib.sh; . /lab/clients.sh; crash_client c1"
check "its lock still excludes others" excluded OTHER lock 0 10
on vm ". /lab/lib.sh; . /lab/clients.sh; boot_client c1 10.0.0.11"
check "its reboot notice frees its lock" await 60 counts '.owner.name == "c1"' 0
equal "c2 keeps its locks" "$(locks | cut -d' ' -f1,2,5)" $'held c2 0-9\nheld c2 1000-1009'
equal "another client gets the range" "$(ask OTHER lock 0 10)" granted
mount_on c1
process AGAIN c1 a
equal "the new life of c1 is refused it" "$(ask AGAIN lock 0 10)" refused
equal "and locks what is free" "$(ask AGAIN lock 20 10)" granted
resync
equal "a resync after it: exit code" $code 0
equal "all was reclaimed" "$(told '.locks | "\(.in_scope) \(.reclaimed)"')" "4 4"
verdict
