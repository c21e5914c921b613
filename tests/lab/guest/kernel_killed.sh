# Killing nlmctl in the middle of a run on the kernel's lockd: what those scenarios share.
. /lab/kernel.sh
serve
process A c1 a
process B c2 b
process D c1 y/d
ask A lock 0 10 >/dev/null
ask B lock 0 0 >/dev/null
ask D lock 5 5 >/dev/null
check "three locks are held" held 3
before=$(lock_set)
settings=$(settings)
records=$(monitored)

# The run's file, in the phase that it is in.
phase() { cat $STATE/*.run 2>/dev/null | jq -r 'select(.phase != "ended") | "\(.phase) \(.notices_begun)"'; }
# in_phase "PHASE NOTICES_BEGUN": without a program more than is needed, since there is one processor for all.
in_phase() { grep -qs "\"phase\":\"${1% *}\".*\"notices_begun\":${1#* }," $STATE/*.run; }
no_threads() { [ "$(cat $NFSD/threads)" = 0 ]; }
guard_gone() { ! pgrep -f 'knfsd-guar[d]' >/dev/null; }
# killed_when COMMAND...: starts a run, kills it as soon as the command succeeds; $SLOWED goes before nlmctl
killed_when() {
    local pid shot=no end=$(($(uptime_s) + 60))
    ${SLOWED:-} nlmctl --json --manager knfsd --db /run/runs.db --name srv.lab --name srv resync --yes --method reboot --grace-max 90s \
        >/run/killed.json 2>/run/killed.err &
    pid=$!
    while kill -0 $pid 2>/dev/null && [ "$(uptime_s)" -lt $end ]; do
        if "$@"; then
            kill -KILL $(pgrep -x nlmctl | sort -n | head -n 1)
            shot=yes
            break
        fi
        sleep 0.1
    done
    wait $pid 2>/dev/null
    note "killed: $shot; $(phase)"
}
whole_again() {
    check "$1: NFS is served" await 30 serves
    check "$1: the guard has gone" await 30 guard_gone
    equal "$1: nfsd is as before" "$(settings)" "$settings"
    equal "$1: statd has every client" "$(monitored)" "$records"
}
# Goes on with what was left, or starts anew: in the end every lock is back.
go_on() {
    resync --method reboot --resume
    note "--resume: $code"
    if [ "$(lock_set)" != "$before" ]; then
        await 120 not_in_grace
        resync --method reboot
        note "a new run: $code; $(told '.locks.resurrected') resurrected"
    fi
    equal "$1: every lock is held again" "$(lock_set)" "$before"
    check "$1: grace is over" not_in_grace
    equal "$1: nothing is left to put back" "$(ls $STATE | grep -v -E '\.run$|\.lock$')" ""
}

# Slow enough to be met: each file that is replaced, each write of the number of threads.
slowed() { SLOWED="strace -f --seccomp-bpf -o /dev/null $*"; }
at_renames() { slowed -e trace=rename,renameat,renameat2 -e inject=rename,renameat,renameat2:delay_exit=3000000; }
