# Runs in front of the kernel's lockd: what scenarios about them share.
. /lab/kernel.sh

keeper() { pgrep -f knfsd-keeper; }
filter() { pgrep -f knfsd-filter; }
gone() { ! keeper && ! filter; } >/dev/null
# end_keeper: one of a scenario before has its runs in the folder that `serve` empties
end_keeper() {
    pkill -KILL -f knfsd-keeper
    await 20 gone
}
# grace_run [FLAG]...
grace_run() { resync --grace 20s --grace-max 40s "$@"; }
# start_run [FLAG]...: a run in the background, as soon as its notices leave; $run is its process, that of nlmctl itself
start_run() {
    knfsd_itself resync --yes --grace 30s --grace-max 30s "$@" >/run/report.json 2>/run/resync.err &
    run=$!
    await 300 told_or_gone && notices_leave || fail "the run begins: $(cat /run/report.json /run/resync.err)"
}
# notices_leave: by what nlmctl says of its progress. To ask for the status would have it read kernel memory in turn with the run.
notices_leave() { grep -qE '^(notifying|reclaiming|settling)' /run/resync.err; }
told_or_gone() { notices_leave || ! kill -0 $run; }
# knfsd_itself ARGUMENT...: in the background it is nlmctl itself that can be killed
knfsd_itself() { exec nlmctl --json --manager knfsd --db /run/runs.db --name srv.lab --name srv "$@"; }
# begun: a run is active and its notices leave
begun() { knfsd status | jq -e .run.notices_begun >/dev/null; }
# reclaimed NUMBER
reclaimed() { knfsd status | jq -e ".run.locks.reclaimed >= $1" >/dev/null; }
no_run() { knfsd status | jq -e '.run == null' >/dev/null; }
# complaints: what the clients' kernels have said about reclaims since it was last asked
complaints() { on vm dmesg -c | grep -iE 'reclaim'; }

# caller NAME CLIENT PATH [KEY=VALUE]...: an NLM client in user space (nlm.py) for a file of which some lock is held
caller() {
    local name=$1 client=$2 handle
    handle=$(handle_of "$3")
    start "$name" "$client" "python3 -IS /lab/nlm.py file=$handle ${*:4}"
}
# handle_of PATH
handle_of() { knfsd locks | jq -r --arg path "$1" '[.locks[] | select(.path == $path) | .file] | first'; }
# orphan CLIENT PATH START LENGTH [KEY=VALUE]...: lockd has a lock of a process that the client's kernel does not know
orphan() {
    caller orphan "$1" "$2" "${@:5}"
    ask orphan lock "$3" "$4"
    stop orphan
}
# start_thief: a process on this server waits for the first bytes of a, which are a client's; when it has them there is
# /run/stolen. Its process is $thief.
start_thief() {
    # A scenario before may have left them.
    rm -f /run/waits /run/stolen
    python3 -IS -c 'import fcntl, os, time
f = os.open("/srv/x/a", os.O_RDWR); open("/run/waits", "w"); fcntl.lockf(f, fcntl.LOCK_EX, 10); open("/run/stolen", "w"); time.sleep(3000)' &
    thief=$!
    await 20 test -e /run/waits || fail "the thief waits"
}
