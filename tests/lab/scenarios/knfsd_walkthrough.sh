# What README tells an administrator to type on a stock Linux server, as it stands there: a client waits behind the lock of one
# that is dead; who holds it, is that client alive, free it, the waiter goes on. Then a run in maintenance, with its record.
. /lab/grace.sh
end_keeper
serve
rm -f /var/lib/nlmctl/runs.db*
process A c1 a
process W c2 a
process L c3 b
equal "A locks" "$(ask A lock 0 10)" granted
equal "L locks" "$(ask L lock 0 10)" granted
tell W wait 0 5
equal "W waits" "$(reply W 3)" nothing
on vm "ip link set vc1 down"

# typed COMMAND...: runs it, and shows it with its answer, which is in /run/typed.txt and its exit code in $code
typed() {
    echo "# $*"
    "$@" >/run/typed.txt 2>&1 </dev/null
    code=$?
    cat /run/typed.txt
}
says() { grep -qE "$1" /run/typed.txt; }

typed nlmctl locks --file /srv/x/a
check "the holder is named" says '^/srv/x/a +held +c1 +10.0.0.11 .* write +0-9'
if keeps_requests; then
    check "the waiter is, and behind whom it waits" says '^/srv/x/a +waiting +c2 +10.0.0.12 .*behind c1'
fi
typed nlmctl release --client c1 --file /srv/x/a --dry-run
check "its client does not answer" says 'no answer|does not answer'
equal "a dry run frees nothing" "$(ranges)" "0 9,0 9"
typed nlmctl release --client c1 --file /srv/x/a --range 0:10 --yes
equal "it is freed" $code 0
equal "the waiter goes on" "$(reply W 60)" granted
typed nlmctl locks
check "it has the range" says '^/srv/x/a +held +c2 +10.0.0.12 .* write +0-4'
check "the dead client has nothing" bash -c '! grep -q " c1 " /run/typed.txt'

# --- maintenance; the dead client is dead
typed nlmctl check
check "nothing stands in the way" [ $code = 0 ]
check "nothing says that lockd does not see locks of local processes" bash -c '! grep -q "neither sees" /run/typed.txt'
typed nlmctl resync --dry-run
check "the plan frees nothing at the begin" says 'lockd keeps every lock'
equal "what is held" "$(ranges)" "0 4,0 9"
typed nlmctl resync --yes --grace 30s
check "what live clients hold is reclaimed" grep -qx "[03]" <<<"$code"
equal "it is as before" "$(ranges)" "0 4,0 9"
typed nlmctl runs list
check "the run is in the record" says settled
typed nlmctl runs report --output /run/run.html
check "and is a page, with its course drawn" grep -q '<svg' /run/run.html
typed nlmctl status
check "no grace is left" says 'grace +none'
on vm "ip link set vc1 up"
pkill -KILL -f knfsd-keeper
verdict
