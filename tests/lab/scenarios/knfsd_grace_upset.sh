# What other programs do in mid-run to packet rules, to nfsd and to addresses: nothing is dropped, and it is said what happened.
. /lab/grace.sh
end_keeper
serve
touch /srv/x/many && chmod 666 /srv/x/many
process A c1 a
process B c2 b
process C c3 c
process M c1 many
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks" "$(ask B lock 0 10)" granted
equal "C locks" "$(ask C lock 0 10)" granted
equal "M locks 200 bytes" "$(ask M comb 0 200)" granted
before=$(lock_set)
# slow_run: one that c3 holds up, in the background
slow_run() {
    on vm "ip link set vc3 down"
    start_run "$@"
}
on vm dmesg -c >/dev/null

# --- rules: all are flushed, and a firewall is loaded, again and again while 203 reclaims come
firewall() {
    nft flush ruleset
    nft -f - <<'NFT'
table inet firewall {
    chain in {
        type filter hook input priority filter; policy accept
        tcp dport 4711 drop
    }
    chain out { type filter hook output priority filter; policy accept; }
}
NFT
}
firewall
(
    while [ ! -e /run/enough ]; do
        firewall && echo >>/run/reloads
        sleep 0.05
    done
) &
reloads=$!
start_run
wait $run
touch /run/enough
wait $reloads
note "$(wc -l </run/reloads) reloads; the run took $(told .run.elapsed_ms) ms"
equal "reloads of rules: all is reclaimed" "$(told .run.outcome) $(sums)" "settled 203 203 0 0 0 0"
equal "reloads of rules: those of the run stand beside those of the firewall" "$(nft list tables | sort)" \
    "table inet firewall
table inet nlmctl"
equal "reloads of rules: the same locks" "$(lock_set)" "$before"
equal "reloads of rules: no client complains" "$(complaints)" ""
end_keeper
equal "the rules of the run have gone, those of the firewall not" "$(nft list tables)" "table inet firewall"
nft flush ruleset

# --- an address of the server moves off: what was locked through it is kept
on c3 'mkdir -p /mnt2; mount -t nfs -o vers=3,proto=tcp files:/srv/y /mnt2' >/dev/null 2>&1
process E c3 ../mnt2/d
equal "E locks through the address" "$(ask E lock 0 10)" granted
equal "so does what its client does not know" "$(orphan c1 /srv/x/a 70 10 server=10.0.0.2)" granted
with_e=$(lock_set)
slow_run
ip addr del 10.0.0.2/24 dev "$(by_mac 52:54:00:00:00:01)"
on vm "ip link set vc3 up"
wait $run
code=$?
note "an address moves off: $(told .run.outcome), exit $code, $(sums), kept $(told .locks.kept)"
equal "an address moves off: superseded, and nothing is dropped" "$(told .run.outcome) $code $(told .locks.dropped)" "superseded 1 0"
check "an address moves off: the timeline names it" grep -q "^superseded: .*10.0.0.2 has moved off" <<<"$(timeline)"
equal "an address moves off: the same locks" "$(lock_set)" "$with_e"
ip addr add 10.0.0.2/24 dev "$(by_mac 52:54:00:00:00:01)"
end_keeper
equal "it comes back: E unlocks" "$(ask E unlock 0 10)" unlocked
knfsd release --yes --live --file /srv/x/a --range 70:10 >/dev/null 2>&1
stop E
on c3 'umount -l /mnt2'

# --- nfsd is restarted while thieves wait: here, and on a client
start_thief
process T c2 a
slow_run
tell T wait 0 10
equal "the thieves wait" "$(reply T 2) $(ls /run/stolen 2>/dev/null)" "nothing "
rpc.nfsd 0
unshare -u sh -c 'hostname lab-scope && exec rpc.nfsd -N 4 3'
check "lockd is in a grace period of its own" in_grace
wait $run
note "$(jq -c '[.run.outcome, .run.reason, .locks]' /run/report.json)"
equal "a restart of nfsd: superseded, and nothing was dropped by the run" "$(told .run.outcome) $(told .locks.dropped)" "superseded 0"
equal "a restart of nfsd: nobody of the clients got what it had" "$(reply T 2)" nothing
equal "a restart of nfsd: a local process has what any restart gives it" "$(ls /run/stolen)" /run/stolen
equal "a restart of nfsd: nothing of the run is left" "$(nft list tables)" ""
kill $thief
on vm "ip link set vc3 up"
open_now
end_keeper
verdict
