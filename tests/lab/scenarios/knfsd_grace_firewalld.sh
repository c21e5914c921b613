# Runs in front of the kernel's lockd on a server whose firewalld admits NFS alone, judges packets by their connections, and is
# reloaded and restarted in mid-run while thieves wait: all is reclaimed, and what firewalld rejects stays rejected.
. /lab/grace.sh
end_keeper
serve
process A c1 a
process B c2 b
process C c3 c
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks" "$(ask B lock 0 10)" granted
equal "C locks" "$(ask C lock 0 10)" granted

# --- the firewall
mkdir -p /run/dbus
dbus-daemon --system --fork
firewalld --nofork --nopid >/run/firewalld.log 2>&1 &
firewalld=$!
trap 'kill $firewalld 2>/dev/null; nft flush ruleset' EXIT
answers() { [ "$(firewall-cmd --state 2>/dev/null)" = running ]; }
await 120 answers || fail "firewalld runs: $(tail -n 5 /run/firewalld.log)"
# What an administrator opens for NFSv3: services, and the ports that lockd and statd have on this boot.
ports=$(rpcinfo -p | awk '$1 == 100021 || $1 == 100024 { print "--add-port=" $4 "/" $3 }' | sort -u)
firewall-cmd --permanent --add-service=nfs --add-service=nfs3 --add-service=mountd --add-service=rpc-bind >/dev/null
firewall-cmd --permanent $ports >/dev/null
firewall-cmd --reload >/dev/null
reaches() { on c1 "timeout 5 bash -c 'exec 2>/dev/null; </dev/tcp/10.0.0.1/$1' && echo yes || echo no"; }
python3 -IS -c 'import socket, time
s = socket.create_server(("10.0.0.1", 4711)); time.sleep(3000)' &
closed=$!
equal "firewalld admits NFS" "$(reaches 2049)" yes
equal "firewalld rejects what is not open" "$(reaches 4711)" no
before=$(lock_set)

# --- thieves, and what happens to the firewall while a run is held up by c3
start_thief
process T c2 a
tell T wait 0 10
on vm dmesg -c >/dev/null
# with_c3_away NAME COMMAND...: a run meanwhile; c3 comes back after the command
with_c3_away() {
    local name=$1
    shift
    on vm "ip link set vc3 down"
    # With c3 silent it would settle after 30 s; firewalld may take longer in these guests.
    start_run --grace 3m --grace-max 3m --quiet-time 1m
    "$@" >/dev/null || fail "$name: $*"
    on vm "ip link set vc3 up"
    wait $run
    note "$name: $(told .run.outcome), $(sums), kept $(told .locks.kept)"
    equal "$name: all is reclaimed" "$(told .run.outcome) $(sums)" "settled 3 3 0 0 0 0"
    equal "$name: the same locks" "$(lock_set)" "$before"
    equal "$name: no client complains" "$(complaints)" ""
    equal "$name: the tables of the run and of firewalld stand" "$(nft list tables | sort | grep -E 'firewalld|nlmctl')" \
        "table inet firewalld
table inet nlmctl"
    equal "$name: what is not open is rejected" "$(reaches 4711)" no
    end_keeper
}
again() {
    kill $firewalld
    wait $firewalld
    firewalld --nofork --nopid >/run/firewalld.log 2>&1 &
    firewalld=$!
    await 120 answers
}
with_c3_away "firewalld reloads" firewall-cmd --reload
with_c3_away "firewalld reloads all, connections too" firewall-cmd --complete-reload
with_c3_away "firewalld is started again" again
equal "the thieves got nothing" "$(reply T 2) $(ls /run/stolen 2>/dev/null)" "nothing "
for each in A B C; do equal "$each unlocks" "$(ask $each unlock 0 10)" unlocked; done
kill $thief $closed
verdict
