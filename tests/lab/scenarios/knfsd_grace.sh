# Runs in front of the kernel's lockd: it keeps every lock, its clients reclaim, only what was forgotten goes.
. /lab/kernel.sh
gone() { ! pgrep -f knfsd-keeper >/dev/null; }
# One of a scenario before has its runs in the folder that `serve` empties.
pkill -KILL -f knfsd-keeper
await 20 gone
serve
process A c1 a
process B c2 b
process C c3 c
process T c2 a
process U c2 c
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks a whole file" "$(ask B lock 0 0)" granted
equal "C locks" "$(ask C lock 5 5)" granted

# orphan CLIENT START LENGTH: on file a lockd has a lock of a process that the client's kernel does not know
orphan() {
    local handle
    handle=$(knfsd locks | jq -r '.locks[] | select(.path == "/srv/x/a") | .file' | head -n 1)
    on "$1" "cat >/run/orphan.py <<'PYTHON'
import socket, struct, sys
name, handle, start, length = sys.argv[1].encode(), bytes.fromhex(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def opaque(b):
    return struct.pack('>I', len(b)) + b + bytes(-len(b) % 4)

def call(s, program, version, procedure, args):
    auth = opaque(struct.pack('>I', 0) + opaque(name) + struct.pack('>III', 0, 0, 0))
    body = struct.pack('>7I', 7, 0, 2, program, version, procedure, 1) + auth + struct.pack('>II', 0, 0) + args
    s.sendall(struct.pack('>I', len(body) | 1 << 31) + body)
    return struct.unpack('>I', s.recv(999)[-4:])[0]

server = '10.0.0.1'
port = call(socket.create_connection((server, 111)), 100000, 2, 3, struct.pack('>4I', 100021, 4, 6, 0))
lock = opaque(name) + opaque(handle) + opaque(b'4711@' + name) + struct.pack('>iQQ', 4711, start, length)
args = opaque(b'abcd') + struct.pack('>II', 0, 1) + lock + struct.pack('>Ii', 0, 3)
print('stat', call(socket.create_connection((server, port), source_address=('', 900 + start)), 100021, 4, 2, args))
PYTHON
python3 /run/orphan.py $1 $handle $2 $3"
}
# grace_run [FLAG]...
grace_run() { resync --grace 20s --grace-max 40s "$@"; }
complaints() { on vm dmesg -c | grep -iE 'reclaim'; }

equal "lockd grants a lock that its client does not know" "$(orphan c1 50 10)" "stat 0"
equal "what is held" "$(ranges)" "0 9,50 59,0 EOF,5 9"
settings=$(settings)
number=$(state)
on vm dmesg -c >/dev/null
nlmctl --manager knfsd --db /run/runs.db resync --dry-run >/run/plan.txt 2>&1
check "the plan says which way is taken" grep -q "method grace: lockd keeps every lock" /run/plan.txt
check "the plan says what does not hold" grep -q "not bound by grace" /run/plan.txt

# --- strict: what was forgotten goes, all else stays
grace_run
equal "exit code" $code 3
equal "in scope, reclaimed, dropped, unverified, resurrected, conflicts" "$(sums)" "4 3 1 0 0 0"
equal "the forgotten lock alone is gone" "$(ranges)" "0 9,0 EOF,5 9"
equal "nfsd is as before" "$(settings)" "$settings"
equal "the state number was raised" "$(state)" $((number + 2))
note "$(timeline | tail -n 12)"

# --- again, while late reclaims of the first are still waited for
for round in second third; do
    grace_run
    equal "$round: exit code" $code 0
    equal "$round: sums" "$(sums)" "3 3 0 0 0 0"
    equal "$round: the same locks are held" "$(ranges)" "0 9,0 EOF,5 9"
done
equal "no client complains" "$(complaints)" ""

# --- a thief gets nothing, an abort holds all again
on vm "ip link set vc3 down"
grace_run --grace 60s --grace-max 60s &
run=$!
# begun: a run is active and its notices leave
begun() { knfsd status | jq -e .run.notices_begun >/dev/null; }
# reclaimed NUMBER
reclaimed() { knfsd status | jq -e ".run.locks.reclaimed >= $1" >/dev/null; }
await 90 begun || knfsd status
tell T lock 0 10
equal "another client's request waits" "$(reply T 3)" nothing
await 30 reclaimed 2 || knfsd status
knfsd abort >/run/abort.json 2>&1
wait $run
note "$(cat /run/abort.json | tr -d "\n" | cut -c1-200)"
equal "all is held as before" "$(ranges)" "0 9,0 EOF,5 9"
equal "the other client's request is refused for the lock, not for grace" "$(reply T 60)" refused

# --- it had not acked, so a reclaim of it may be refused later: whatever policy says its lock is kept until it reclaims
unsure() { knfsd locks | jq -r '[.locks[] | select(.unsure != null) | "\(.owner.address) \(.path) \(.start)"] | sort | join(",")'; }
equal "the lock of the client that had not acked is unsure" "$(unsure)" "10.0.0.13 /srv/x/c 5"
equal "status counts it" "$(knfsd status | jq .manager.unsure)" 1
grace_run --unreachable drop
equal "unsure: sums" "$(sums) $(told .locks.kept)" "3 2 0 0 0 0 1"
check "the timeline has the reason" grep -q "/srv/x/c: a reclaim of it may have been refused" <<<"$(timeline)"
on vm "ip link set vc3 up"
grace_run
equal "reclaimed: sums" "$(sums)" "3 3 0 0 0 0"
equal "nothing is unsure any more" "$(unsure)" ""

# --- a client that does not answer: kept, then dropped
on vm "ip link set vc3 down"
grace_run
equal "kept: exit code" $code 3
equal "kept: sums" "$(sums) $(told .locks.kept)" "3 2 0 0 0 0 1"
grace_run --unreachable drop
equal "dropped: exit code" $code 3
note "$(timeline | grep kept)"
equal "dropped: sums" "$(sums) $(told .locks.kept)" "3 2 1 0 0 0 0"
equal "its lock alone is gone" "$(ranges)" "0 9,0 EOF"
on vm "ip link set vc3 up"

# --- targeted: others go on
equal "lockd grants another" "$(orphan c1 70 10)" "stat 0"
grace_run --client c1 &
run=$!
await 90 begun
equal "a client that is not involved locks at once" "$(ask U lock 100 10)" granted
wait $run
code=$?
equal "targeted: the forgotten lock alone is gone" "$(ranges)" "0 9,0 EOF,100 109"
equal "no client complains" "$(complaints)" ""
ask U unlock 100 10 >/dev/null

# --- a lock is let go, and taken
ask A unlock 0 10 >/dev/null
equal "what its owner lets go is free" "$(ask T lock 0 10)" granted
pkill -KILL -f knfsd-keeper
verdict
