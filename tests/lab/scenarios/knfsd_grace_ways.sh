# Five runs in a row in front of the kernel's lockd, over every way that a client can come by: the same locks after each, what
# was forgotten goes where policy says so, others go on, and nothing of NFS notices. It has a boot of its own: from here on
# nfsd serves NFSv4, and clients have more addresses.
. /lab/grace.sh
end_keeper
# with_v4: nfsd serves NFSv4 too
with_v4() {
    rpc.nfsd 0
    unshare -u sh -c 'hostname lab-scope && exec rpc.nfsd 3'
    open_now
}
serve
with_v4
ip addr add fd00::1/64 dev "$(by_mac 52:54:00:00:00:01)" nodad
on c3 'ip addr add fd00::13/64 dev eth0 nodad; mkdir -p /mnt6
    mount -t nfs -o vers=3,proto=tcp6,mountproto=tcp6 "[fd00::1]:/srv/x" /mnt6 || echo "no mount by IPv6"'
on c1 'ip addr add 10.0.0.21/24 dev eth0; ip addr add fd00::11/64 dev eth0 nodad'
on c2 'mkdir -p /mnt4; mount -t nfs -o vers=4.2,proto=tcp srv:/srv/x /mnt4 || echo "no mount of NFSv4"'

# --- the ways: the kernel's clients over TCP, IPv4 and IPv6; others over UDP, and with NLM versions 1 and 3
process A c1 a
process B c2 b
process D c1 y/d
process C c3 ../mnt6/c
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks a whole file" "$(ask B lock 0 0)" granted
equal "D locks on the other export" "$(ask D lock 5 5)" granted
equal "C locks over IPv6" "$(ask C lock 5 5)" granted
ways="udp4 c2 proto=udp
udp6 c3 proto=udp server=fd00::1
tcp6 c1 server=fd00::1
old1 c1 version=1
old3 c3 version=3 proto=udp
cut c2 cut=bytes svid=12
halves c3 cut=halves svid=13"
at=100
while read -r name client how; do
    caller "$name" "$client" /srv/x/a caller="$client" $how
    equal "$name locks ($how)" "$(ask "$name" lock $at 10)" granted
    at=$((at + 20))
done <<<"$ways"
# reclaim_all: those in user space hear of notices from us, all at once
reclaim_all() {
    local name client at=100
    while read -r name _; do
        tell "$name" reclaim $at 10
        at=$((at + 20))
    done <<<"$ways"
    while read -r name client _; do
        equal "$1: $name reclaims" "$(reply "$name")" granted
        # As its process saw it.
        note "$1: $name: $(on "$client" "cat /run/locks/$name.err" |
            awk '/asked: reclaim/ { asked = $1; tries = 0 } / try / { tries++ } END { printf "%d ms, %d tries", 1000 * ($1 - asked), tries }')"
    done <<<"$ways"
}
live=$(lock_set)
note "$(wc -l <<<"$live") locks that their owners know"

# --- what goes on meanwhile: NFSv3 writes, an NFSv4 lock, a local thief, a client that locks and unlocks another file
process F c2 ../mnt4/four
equal "a lock of NFSv4" "$(ask F lock 0 10)" granted
on c2 'while :; do dd if=/dev/zero of=/mnt/y/big bs=64k count=8 oflag=sync 2>/dev/null && echo >>/run/dd.txt; sleep 0.5; done >/dev/null 2>&1 & echo $! >/run/dd.pid'
written() { on c2 'wc -l </run/dd.txt'; }
python3 - <<'P' &
import fcntl, time
with open("/srv/x/a", "r+") as file:
    while True:
        for start in (0, 100, 120, 140, 160, 180, 200, 220):
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
                open("/run/thief", "a").write("%.3f: %d\n" % (time.monotonic(), start))
                fcntl.lockf(file, fcntl.LOCK_UN, 1, start)
            except OSError:
                pass
        time.sleep(0.05)
P
thief=$!
process H c2 c
equal "H holds a byte of c" "$(ask H lock 900 1)" granted
live=$(lock_set)
caller pace c2 /srv/x/c svid=99
# nfs_state: what nfsd has of threads, clients, their state and connections
nfs_state() {
    settings
    for pid in $(pgrep -x nfsd) $(pgrep -x lockd); do cut -d' ' -f1,2,22 "/proc/$pid/stat"; done | sort
    cat $NFSD/clients/*/states
    # Those of the client that writes; Linux gives up others after five idle minutes.
    ss -Htn state established '( sport = :2049 )' | awk '$4 ~ /^10.0.0.12:/ { print $3, $4 }' | sort
}
note "a client in a loop, without a run: $(ask pace pace 5 1000)"
await 20 written
state=$(nfs_state)
on vm dmesg -c >/dev/null

# round NUMBER ORPHAN-IS FLAG...: a run with a lock of c1 that c1 does not know, and one of an address that is silent
round() {
    local name="round $1, ${*:3}" orphan=$2 wrote seconds at_first
    caller orphan c1 /srv/x/a source=10.0.0.21
    equal "$name: lockd grants what its client does not know" "$(ask orphan lock 500 10)" granted
    stop orphan
    wrote=$(written)
    at_first=$(uptime_s)
    start_run "${@:3}"
    tell pace pace 5 1000
    reclaim_all "$name"
    note "$name: client in a loop: $(reply pace 60 | tee /run/pace.txt)"
    wait $run
    code=$?
    seconds=$(($(uptime_s) - at_first))
    case "$*" in
    *targeted*) check "$name: a client that is not involved is never refused" grep -qE '^granted=[0-9]+ rate' /run/pace.txt ;;
    *) check "$name: an ordinary request is refused for grace" grep -q 'grace=' /run/pace.txt ;;
    esac
    note "$name: $seconds s; $(told .run.outcome), exit $code; $(sums), kept $(told .locks.kept)"
    case $orphan in
    kept)
        equal "$name: nothing is dropped" "$(lock_set)" "$(sort <<<"$live
$(lock_set | grep ' 500 509$')")"
        equal "$name: sums" "$(sums) $(told .locks.kept)" "13 12 0 0 0 0 1"
        knfsd release --yes --live --file /srv/x/a --range 500:10 >/dev/null 2>&1
        ;;
    dropped)
        equal "$name: what was forgotten is gone, all else is held" "$(lock_set)" "$live"
        equal "$name: sums" "$(sums) $(told .locks.kept)" "13 12 1 0 0 0 0"
        ;;
    esac
    equal "$name: nfsd, its clients and their connections are as before" "$(nfs_state)" "$state"
    check "$name: NFS writes went on" [ "$(written)" -gt "$wrote" ]
    equal "$name: no client complains" "$(complaints)" ""
    note "$(timeline | grep -iE 'kept|conflict|blind|unseen|superseded' | head -n 5)"
}
round 1 kept --silent keep --grace 40s --grace-max 2m
round 2 dropped --silent drop --grace 40s --grace-max 2m
round 3 kept --mode targeted --silent keep --grace 40s --grace-max 2m
round 4 dropped --mode targeted --silent drop --grace 40s --grace-max 2m
round 5 dropped --silent drop --grace 40s --grace-max 2m
equal "a local process got nothing" "$(cat /run/thief 2>/dev/null)" ""
kill $thief
equal "the lock of NFSv4 is held" "$(ask H lock 0 1; process G c1 four; ask G lock 0 1)" "granted
refused"
equal "and is given up" "$(ask F unlock 0 10)" unlocked
on c2 'kill $(cat /run/dd.pid)' >/dev/null 2>&1
# No kernel gives up for them when they are killed, and the next scenario starts without locks.
at=100
while read -r name _; do
    equal "$name unlocks" "$(ask "$name" unlock $at 10)" granted
    at=$((at + 20))
done <<<"$ways"
pkill -KILL -f knfsd-keeper
verdict
