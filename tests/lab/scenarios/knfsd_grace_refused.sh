# Where a grace period in front of lockd would do harm, or cannot be had, it is refused: with the reason, and nothing is touched.
# At the end the kernel is locked down, so this is the last one of a boot.
. /lab/grace.sh
end_keeper
serve
process A c1 a
process B c2 b
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks" "$(ask B lock 0 10)" granted
# touched: what a run may not touch
touched() {
    lock_set
    echo "state $(state)"
    nft list ruleset
    ip rule
    cut -d' ' -f1,22 "/proc/$(pgrep -x lockd)/stat"
}
# refused WHAT WORDS [COMMAND...]: nlmctl, started by that command, refuses a run with these words
refused() {
    local before
    before=$(touched)
    "${@:3}" nlmctl --json --manager knfsd --db /run/runs.db --name srv.lab --name srv resync --yes --method grace \
        --grace 10s --grace-max 10s >/run/report.json 2>/run/resync.err
    code=$?
    note "$1: exit $code; $(jq -r '.error | "\(.message); \(.remedy)"' /run/report.json)"
    check "$1: refused" grep -qx "[24]" <<<"$code"
    check "$1: the reason is said" grep -qiE "$2" <<<"$(jq -r '.error.message' /run/report.json) $(cat /run/resync.err)"
    equal "$1: nothing is touched" "$(touched)" "$before"
    equal "$1: no client complains" "$(complaints)" ""
}
on vm dmesg -c >/dev/null

refused "a network namespace of another" "namespace|lockd" unshare --net
end_keeper
refused "a process namespace of another" "namespace" unshare --pid --fork --mount-proc \
    sh -c 'mount -t nfsd nfsd /proc/fs/nfsd; exec "$@"' sh
end_keeper
python3 -c 'import socket, struct, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
body = struct.pack("=BBH", 0, 0, socket.htons(0x6e6c)) + struct.pack("=HHBBH", 8, 1, 1, 0, 0)
s.send(struct.pack("=IHHII", 16 + len(body), 3 << 8 | 2, 5, 1, 0) + body)
open("/run/taken", "wb").write(s.recv(999))
time.sleep(600)' &
taker=$!
await 20 test -s /run/taken
grace_run
equal "a queue that another program has: another one is taken" "$(told .run.outcome) $(sums)" "settled 2 2 0 0 0 0"
equal "a queue that another program has: it keeps its own" "$(awk '{ print $1 }' /proc/net/netfilter/nfnetlink_queue | xargs)" "28268 28269"
kill $taker
wait $taker 2>/dev/null
end_keeper
port=$(rpcinfo -p 127.0.0.1 | awk '$1 == 100021 && $3 == "tcp" { print $4; exit }')
nft -f - <<NFT
table inet another {
    chain in { type filter hook input priority filter; tcp dport $port queue num 5 bypass; }
}
NFT
refused "a rule that gives lockd's packets to another program" "another program"
nft delete table inet another
end_keeper
modprobe -r nft_queue nfnetlink_queue 2>/dev/null
mv "/lib/modules/$(uname -r)/modules.dep" /run/
grep -v nft_queue /run/modules.dep >"/lib/modules/$(uname -r)/modules.dep"
if [ ! -e /sys/module/nft_queue ]; then refused "a kernel without a module" "nft_queue"; fi
mv /run/modules.dep "/lib/modules/$(uname -r)/"
end_keeper

# --- calls that cannot be read: their client is kept, with the reason
equal "lockd grants what its client does not know" "$(orphan c1 /srv/x/a 50 10)" granted
exportfs -o rw,sec=sys:krb5,no_root_squash,no_subtree_check,insecure,fsid=1 '*:/srv/x'
check "exports with Kerberos are named in the plan" grep -q "exports with Kerberos" \
    <<<"$(nlmctl --manager knfsd --db /run/runs.db resync --method grace --dry-run 2>&1)"
exportfs -ra
caller sealed c1 /srv/x/a gss=1
start_run --grace 20s --grace-max 20s
note "lockd says to a call of an unknown context: $(ask sealed lock 100 10)"
wait $run
note "$(told .run.outcome), $(sums), kept $(told .locks.kept); $(timeline | grep -iE 'kept|blind|read' | head -n 5)"
equal "sealed calls: what is held" "$(ranges)" "0 9,50 59,0 9"
end_keeper
knfsd release --yes --live --file /srv/x/a --range 50:10 >/dev/null 2>&1

# --- lockd in its own grace
rpc.nfsd 0
unshare -u sh -c 'hostname lab-scope && exec rpc.nfsd -N 4 3'
check "lockd is in grace" in_grace
refused "lockd in grace" "grace period of its own"
open_now
end_keeper
before=$(touched)
grace_run
equal "a lockd without any lock: nothing is done" "$code $(told .run.id)" "0 null"
check "a lockd without any lock: that is said" grep -q "nothing to resync" /run/resync.err
equal "a lockd without any lock: nothing is touched" "$(touched)" "$before"
end_keeper
# With one that is new the way can be proved, and what lockd has lost comes back. Linux 6.12 asks statd to forget its clients
# when nfsd stops: they cannot be told, and have to lock again.
clients=$(monitored)
process C c3 c
equal "C locks" "$(ask C lock 20 10)" granted
grace_run
if [[ $clients = *c1*c2* ]]; then
    # What lockd has lost is pending nowhere, so it may come after the settle.
    check "what lockd has lost comes back" await 30 held 3
    # In which order their files come depends on the scenarios before.
    equal "all is back after a restart" "$(told .run.outcome) $(lock_set | cut -d' ' -f3- | sort | tr '\n' ',')" "settled 0 9,0 9,20 29,"
    back=3
else
    equal "statd knows no client after the restart: what is held" "$(told .run.outcome) $(ranges)" "settled 20 29"
    back=1
fi
end_keeper

# --- lockdown
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
if echo integrity >/sys/kernel/security/lockdown; then
    grace_run
    equal "lockdown=integrity is no obstacle" "$(told .run.outcome) $(sums)" "settled $back $back 0 0 0 0"
    end_keeper
    echo confidentiality >/sys/kernel/security/lockdown
    refused "lockdown=confidentiality" "locked down for confidentiality"
else
    note "this kernel has no lockdown"
fi
end_keeper
verdict
