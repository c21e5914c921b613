# Runs in front of the kernel's lockd with 10,000 locks, reclaimed and then forgotten: what they take, and what a client that has
# nothing to do with them notices. The figures are for people; only what is promised is judged: 30 s for the drop, and
# 100 ms for the calls of others.
. /lab/grace.sh
end_keeper
serve
files=10 each=1000
all=$((files * each))
for n in $(seq $files); do
    touch "/srv/x/f$n" && chmod 666 "/srv/x/f$n"
done
process A c1 a
equal "A locks" "$(ask A lock 0 10)" granted
caller pace c3 /srv/x/a svid=99
on c2 'while :; do dd if=/dev/zero of=/mnt/y/big bs=64k count=8 oflag=sync 2>/dev/null; sleep 0.5; done >/dev/null 2>&1 & echo $! >/run/dd.pid'

# ms COMMAND...: how long it takes
ms() {
    local began
    began=$(date +%s%N)
    "$@"
    echo $((($(date +%s%N) - began) / 1000000))
}
# packets: of the server's wire, and of them those that were queued
packets() {
    local wire
    wire=$(by_mac 52:54:00:00:00:01)
    echo $(($(cat "/sys/class/net/$wire/statistics/rx_packets") + $(cat "/sys/class/net/$wire/statistics/tx_packets")))
}
# queued: packets that went through the queue of the run, and of them those that it dropped
queued() { awk '{ print $8, "packets, dropped", $6 + $7 }' /proc/net/netfilter/nfnetlink_queue; }
listed() { nlmctl --json --manager knfsd locks >/run/locks.json; }
# settled_after MS: how long after the end of its grace period the run was over
settled_after() { told ".run.elapsed_ms - $1 | floor"; }

before=$(ask pace pace 10 1000)
note "FIGURE kernel $(uname -r), filter off: $before"
note "FIGURE a list of one lock: $(ms listed) ms"

# --- live locks of a kernel client
began=$(uptime_s)
for n in $(seq $files); do
    process "L$n" c1 "f$n"
    tell "L$n" comb 0 $each
done
for n in $(seq $files); do
    equal "process $n locks $each bytes" "$(reply "L$n" 300)" granted
done
check "$((all + 1)) locks are held" held $((all + 1))
note "FIGURE the kernel client took $(($(uptime_s) - began)) s to lock them"
note "FIGURE a list of them: $(ms listed) ms, $(jq '.locks | length' /run/locks.json) locks, $(jq -r .owners.how /run/locks.json)"
# Their handles, for the NLM client in user space.
jq -r '.locks[] | "\(.path) \(.file)"' /run/locks.json | sort -u >/run/handles.txt
wire=$(packets)
began=$(date +%s%N)
start_run --grace 200s --grace-max 300s
notices=$((($(date +%s%N) - began) / 1000000))
wait $run
code=$?
equal "exit code" $code 0
equal "all are reclaimed" "$(sums)" "$((all + 1)) $((all + 1)) 0 0 0 0"
equal "all are held" "$(lock_set | wc -l)" $((all + 1))
note "FIGURE strict: notices after $notices ms, the run took $(told .run.elapsed_ms) ms; $(queued) in the queue of $(($(packets) - wire)) on the wire"
note "FIGURE filter on (drain): $(ask pace pace 10 1000)"
check "the filter's queue dropped nothing" grep -q 'dropped 0$' <<<"$(queued)"
end_keeper
note "FIGURE filter off again: $(ask pace pace 10 1000)"
stop $(seq -f L%g $files)
await 60 held 1 || fail "the kernel client gives them back"

# --- as many that their client has forgotten
began=$(uptime_s)
for n in $(seq $files); do
    start orphan c2 "python3 -IS /lab/nlm.py file=$(awk -v path="/srv/x/f$n" '$1 == path { print $2 }' /run/handles.txt)"
    note "orphans: $(ask orphan comb 0 $each 10)"
    stop orphan
done
check "orphans are held" await 20 held $((all + 1))
note "FIGURE they took $(($(uptime_s) - began)) s"
process B c2 b
equal "B, of the same client, locks" "$(ask B lock 0 10)" granted
start_run --mode targeted --silent drop --grace 15s --grace-max 15s
tell pace pace 60 1000
wait $run
code=$?
loop=$(reply pace 120)
equal "they are dropped, and nothing else" "$(sums)" "$((all + 2)) 2 $all 0 0 0"
equal "how many are held" "$(lock_set | wc -l)" 2
took=$(timeline | sed -n 's/^held: .* waited \([0-9]*\) ms.*/\1/p')
note "FIGURE 10,000 orphans: their client was held for $took ms; the run was over $(settled_after 15000) ms after its grace period"
check "they are dropped within 30 s" [ "${took:-30000}" -lt 30000 ]
note "FIGURE a client that is not involved meanwhile: $loop"
check "it is not refused" grep -qE '^granted=[0-9]+ rate' <<<"$loop"
longer=$(awk -F'max=' '{ $0 = $2 } NR == 1 { before = $0 } END { print int($0 - before) }' <<<"$before"$'\n'"$loop")
check "its longest call takes no 100 ms more than before (${longer} ms)" [ "$longer" -lt 100 ]
note "FIGURE $(queued); $(timeline | grep -c kept) named as kept"
note "$(timeline | grep kept | cut -c1-200 | awk 'NR <= 3')"
on c2 'kill $(cat /run/dd.pid)' >/dev/null 2>&1
pkill -KILL -f knfsd-keeper
verdict
