# The server VM with the kernel's nfsd and lockd as the lock manager: what scenarios about them use. They are not for the
# same boot as those of nlmd.
. /lab/lib.sh

STATE=/var/lib/nlmctl/knfsd
NFSD=/proc/fs/nfsd

# serve: a new server with two exports and no locks, and clients that have both mounted
serve() {
    local client
    [ -e $NFSD/threads ] || start_kernel
    for client in c1 c2 c3; do
        on $client 'shopt -s nullglob
            for pid in /run/locks/*.pid; do kill -KILL $(cat $pid); done
            rm -rf /run/locks
            mountpoint -q /mnt && exit
            mount -t nfs -o vers=3,proto=tcp srv:/srv/x /mnt
            mount -t nfs -o vers=3,proto=tcp srv:/srv/y /mnt/y' >/dev/null 2>&1
    done
    (cd /srv/x && touch a b c && chmod 666 a b c && touch ../y/d && chmod 666 ../y/d)
    await 30 held 0 || fail "no lock is held at the start: $(lock_set)"
    open_now
    rm -rf $STATE /run/runs.db
}
start_kernel() {
    local export
    modprobe -a nfsd lockd
    mount -t nfsd nfsd $NFSD
    for export in x y; do
        mkdir -p /srv/$export
        mount -t tmpfs tmpfs /srv/$export
        chmod 777 /srv/$export
    done
    mkdir -p /srv/x/y
    printf '/srv/x *(rw,no_root_squash,no_subtree_check,insecure,fsid=1)\n/srv/y *(rw,no_root_squash,no_subtree_check,insecure,fsid=2)\n' >/etc/exports
    pgrep -x rpcbind >/dev/null || rpcbind -w
    rpc.statd
    exportfs -ra
    rpc.mountd
    track_clients
    # With a server scope that is not this host's name, as rpc.nfsd sets it.
    unshare -u sh -c 'hostname lab-scope && exec rpc.nfsd -N 4 3'
    open_now
}
# track_clients: nfsd's record of NFSv4 clients, as on a server in use. Without it Linux 7.3 does not
# let grace be ended.
track_clients() {
    mkdir -p /run/rpc_pipefs /var/lib/nfs/nfsdcld
    mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs sunrpc /run/rpc_pipefs
    pgrep -x nfsdcld >/dev/null || nfsdcld -p /run/rpc_pipefs
    await 10 pgrep -x nfsdcld || fail "nfsdcld runs"
}
# open_now: no grace.
open_now() { await 120 end_grace || fail "grace ends"; }
end_grace() {
    echo Y >$NFSD/v4_end_grace
    echo Y >/proc/fs/lockd/nlm_end_grace
    ! in_grace
} 2>/dev/null

# lock_set: clients' byte-range locks, a line each, without whose
lock_set() {
    local lockd
    lockd=$(pgrep -x lockd)
    awk -v lockd="$lockd" '$2 == "POSIX" && $5 == lockd { print $4, $6, $7, $8 }' /proc/locks | sort
}
# held NUMBER
held() { [ "$(lock_set | wc -l)" = "$1" ]; }
# in_grace: lockd's or nfsd's
in_grace() { grep -q N /proc/fs/lockd/nlm_end_grace || grep -q N $NFSD/v4_end_grace; }
not_in_grace() { ! in_grace; }
# settings: what nfsd loses with its last thread
settings() {
    local file
    for file in threads pool_threads portlist versions max_connections nfsv4leasetime nfsv4gracetime max_block_size; do
        echo "$file: $(cat $NFSD/$file 2>/dev/null)"
    done
    # By netlink alone, so only newer kernels tell it.
    if command -v nfsdctl >/dev/null && nfsdctl threads >/run/threads.txt 2>/dev/null; then
        grep scope /run/threads.txt
    fi
    echo "nlm_grace_period: $(cat /proc/sys/fs/nfs/nlm_grace_period)"
    awk '$2 ~ /:0801$/ && $4 == "0A" { print "listens:", $2 }' /proc/net/tcp /proc/net/tcp6 | sort
}
# monitored: statd's clients
monitored() { (cd /var/lib/nfs/sm && echo *); }
# state: statd's number on disk
state() { od -An -td4 /var/lib/nfs/state | tr -d ' '; }
serves() { [ "$(cat $NFSD/threads)" = 3 ] && rpcinfo -t 127.0.0.1 nfs 3 >/dev/null 2>&1; }
takes_signal() { [ $((0x$(awk '/SigCgt/ { print $2 }' /proc/"$(pgrep -x lockd)"/status) >> 8 & 1)) = 1 ]; }
# keeps_requests: lockd has a blocked request in its queue, and the kernel lists it. Linux 6.12 keeps none for local file systems.
keeps_requests() { grep -qe '-> POSIX' /proc/locks; }

# knfsd ARGUMENT...: nlmctl for this server
knfsd() { nlmctl --json --manager knfsd --db /run/runs.db --name srv.lab --name srv "$@"; }
# resync [FLAG]...: its exit code is in $code, its report in /run/report.json
resync() {
    knfsd resync --yes "$@" >/run/report.json 2>/run/resync.err
    code=$?
    note "$(jq -r 'if .run then "\(.run.outcome) after \(.run.elapsed_ms) ms, exit \(.run.exit) \(.run.reason // "")" else "exit \(.error.exit): \(.error.message)" end' /run/report.json 2>&1 ||
        cat /run/resync.err)"
}
# told JQ: something of that report
told() { jq -r "$1" /run/report.json; }
# sums: of that report
sums() { told '.locks | "\(.in_scope) \(.reclaimed) \(.dropped) \(.unverified) \(.resurrected) \(.conflicts)"'; }
# timeline: of the run in that report, a line an event
timeline() { knfsd runs show "$(told .run.id)" | jq -r '.events[] | "\(.kind): \(.detail)"'; }

# --- single locks
# one ARGUMENT...: releases; the report is in /run/report.json, the exit code in $code
one() {
    knfsd release --live --yes "$@" >/run/report.json 2>/run/release.err
    code=$?
    note "exit $code; $(jq -c 'if .release then .release | [.outcome, .released, (.left | map(.why))] else .error.message end' /run/report.json) $(grep -v '^ *$' /run/release.err | tail -n 1)"
}
# ranges: of clients' locks, in a line
ranges() { lock_set | cut -d' ' -f3- | tr '\n' ',' | sed 's/,$//'; }
# traces: rules and routes of ours
traces() { { ip -4 rule; ip -6 rule; } | grep 5131341; ip -4 route show table 5131341 2>/dev/null; ip -6 route show table 5131341 2>/dev/null; }
has_traces() { [ -n "$(traces)" ]; }
no_traces() { [ -z "$(traces)" ]; }
# of FILE START JQ: something of the lock that begins there
of() { knfsd release --dry-run --file "$1" | jq -r --argjson at "$2" ".release.locks[] | select(.start == \$at) | $3"; }
