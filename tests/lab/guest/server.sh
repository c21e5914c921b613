# The server VM with nlmd as its lock manager and the example NFS server beside it: what scenarios about nlmd use.
. /lab/lib.sh

EXPORT=/srv/export
STATE=/var/lib/nlmd

# serve [NLMD-FLAG]...: a new nlmd without a past, and an NFS server beside it; nothing is mounted
serve() {
    clear_up
    start_nfs --no-locks
    start_nlmd "$@"
    complaints >/dev/null
}
# serve_embedded [FLAG]...: the same with one program, the NFS server with the lock manager inside
serve_embedded() {
    clear_up
    start_nfs --state-dir $STATE --name srv.lab --name srv --grace 10s "$@"
    complaints >/dev/null
}
# clear_up: nothing is left of an earlier scenario
clear_up() {
    local client
    for client in c1 c2 c3; do
        on $client 'shopt -s nullglob
            for pid in /run/locks/*.pid; do kill -KILL $(cat $pid); done
            rm -rf /run/locks
            umount -f -l /mnt' >/dev/null 2>&1
    done
    stop_server
    pgrep -x rpcbind >/dev/null || rpcbind -w
    mountpoint -q $EXPORT || { mkdir -p $EXPORT && mount -t tmpfs tmpfs $EXPORT; }
    (cd $EXPORT && rm -f ./* && touch a b && chmod 666 a b)
    rm -rf $STATE /run/runs.db
}
stop_server() {
    local pid
    for pid in $(cat /run/server.*.pid 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
    rm -f /run/server.*.pid
}
# start_nfs FLAG...
start_nfs() {
    nfs_server --root $EXPORT "$@" >>/run/nfs_server.log 2>&1 &
    echo $! >/run/server.nfs.pid
    await 30 rpcinfo -t 127.0.0.1 nfs 3 || fail "the NFS server serves: $(tail -n 3 /run/nfs_server.log)"
}
# start_nlmd [FLAG]...
start_nlmd() {
    nlmd --state-dir $STATE --name srv.lab --name srv --grace 10s "$@" >>/run/nlmd.log 2>&1 &
    echo $! >/run/server.nlmd.pid
    await 30 nlmctl status || fail "nlmd serves: $(tail -n 3 /run/nlmd.log)"
}
# crash nlmd|nfs: as if the power failed
crash() {
    kill -KILL "$(cat /run/server."$1".pid)"
    wait "$(cat /run/server."$1".pid)" 2>/dev/null
}

# mount_on CLIENT [SERVER-NAME-OR-ADDRESS]
mount_on() {
    local said
    said=$(on "$1" "mount -t nfs -o vers=3,proto=tcp ${2:-srv}:/ /mnt && echo mounted")
    [ "$said" = mounted ] || fail "mount ${2:-srv} on $1: $said"
}

# locks [JQ-CONDITION]: what nlmd lists, a lock a line, in an order of its own
locks() {
    nlmctl --json locks | jq -r ".locks[] | select(${1:-true}) |
        \"\(.state) \(.owner.name) \(.file[-8:]) \(.kind) \(.start)-\(.end) svid=\(.owner.svid) oh=\(.owner.oh)\"" | sort
}
# counts JQ-CONDITION NUMBER
counts() { [ "$(locks "$1" | wc -l)" = "$2" ]; }

# resync [FLAG]...: its exit code is in $code, its report in /run/report.json
resync() {
    nlmctl --json --db /run/runs.db --name srv.lab --name srv resync --yes "$@" >/run/report.json 2>/run/resync.err
    code=$?
    note "$(jq -r '"\(.run.mode) run, \(.run.outcome) after \(.run.elapsed_ms) ms, exit \(.run.exit)"' /run/report.json 2>&1 ||
        cat /run/resync.err)"
}
# told JQ: something of that report
told() { jq -r "$1" /run/report.json; }
# fate CLIENT
fate() { told ".clients[] | select(.name == \"$1\") | .fate"; }

# excluded PROCESS START LENGTH: it is another one's, as this process of another client finds
excluded() {
    local said
    said=$(ask "$@")
    [ "$said" != granted ] || ask "$1" unlock "$3" "$4" >/dev/null
    [ "$said" = refused ]
}
# complaints: what the clients' kernels have said since it was last asked about locks and servers
complaints() { on vm dmesg -c | grep -iE 'lockd|statd|nsm|reclaim|nfs:|lost'; }
# grace_is WORD: open, recovery, strict, targeted
grace_is() { [ "$(nlmctl --json status | jq -r .manager.grace)" = "$1" ]; }
