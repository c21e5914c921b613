# What both guests and every scenario share.
#
#   server VM    eth0: 10.0.0.1 (srv), 10.0.0.2 (files, an alias)
#   clients VM   br0: 10.0.0.9, for control; on it eth0, and a veth of each client:
#                network namespaces c1 10.0.0.11, c2 10.0.0.12, c3 10.0.0.13

uptime_s() { cut -d. -f1 /proc/uptime; }

# by_mac MAC: the name of a network device
by_mac() {
    local device
    for device in /sys/class/net/*; do
        [ "$(cat "$device/address")" != "$1" ] || basename "$device"
    done
}

# await SECONDS COMMAND...: until the command succeeds
await() {
    local end=$(($(uptime_s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(uptime_s)" -lt $end ] || return 1
        sleep 0.1
    done
}

# on CLIENT|vm COMMAND: run a shell command there, print what it prints
on() {
    local node=$1
    shift
    agent run "$node" "$(base64 -w0 <<<"$*")" || return 1
    cat <&9
    exec 9>&-
}
# said WORD...: a command to agent.py that is no shell's; its answer, a line or none
said() {
    local line
    agent "$@" || return 1
    if IFS= read -r line <&9; then echo "$line"; fi
    exec 9>&-
}
# agent WORD...: gives a command to agent.py; its answer comes by descriptor 9
agent() { exec 9<>/dev/tcp/10.0.0.9/9999 && echo "$*" >&9; }

agent_answers() { [ "$(on vm echo up)" = up ]; }

server_net() {
    local device
    device=$(by_mac 52:54:00:00:00:01)
    ip link set "$device" up
    ip addr add 10.0.0.1/24 dev "$device"
    ip addr add 10.0.0.2/24 dev "$device"
}

# --- what a scenario says about itself; `verdict` ends it

failures=0
note() { echo "  -- [$(cut -d' ' -f1 /proc/uptime)] $*"; }
pass() { echo "  ok   $*"; }
fail() {
    echo "  FAIL $*"
    failures=$((failures + 1))
}
# check WHAT COMMAND...: the command succeeds
check() {
    local what=$1
    shift
    if "$@"; then pass "$what"; else fail "$what"; fi
}
# equal WHAT FOUND WANTED
equal() {
    if [ "$2" = "$3" ]; then pass "$1"; else
        fail "$1"
        printf '         found:  %s\n         wanted: %s\n' "${2//$'\n'/ | }" "${3//$'\n'/ | }"
    fi
}
verdict() {
    [ $failures = 0 ] || echo "  $failures failed"
    exit $((failures > 0))
}

# --- processes on the clients that lock ranges of a file (locker.py, nlm.py); /run/locks/NAME.* there

declare -A node_of=()
# start NAME CLIENT COMMAND: start one that answers to lines
start() {
    node_of[$1]=$2
    on "$2" "mkdir -p /run/locks; cd /run/locks; rm -f $1.*; mkfifo $1.in $1.out
        setsid $3 0<>$1.in 1<>$1.out 2>$1.err & echo \$! >$1.pid"
    [ "$(reply "$1")" = ready ] || fail "process $1 on $2: $(on "$2" "cat /run/locks/$1.err")"
}
# process NAME CLIENT FILE: one that uses the kernel's locks; FILE is below the client's mount
process() { start "$1" "$2" "python3 -IS /lab/locker.py /mnt/$3"; }
# tell NAME VERB START LENGTH: have it do something, and do not wait for it
tell() { said tell "${node_of[$1]}" "$@"; }
# reply NAME [SECONDS]: what it says next, or "nothing"
reply() { said reply "${node_of[$1]}" "$1" "${2:-60}"; }
# ask NAME VERB START LENGTH: both
ask() { said ask "${node_of[$1]}" "$1" 60 "${@:2}"; }
# stop NAME...: kill them; the kernel gives their locks back
stop() {
    local name
    for name; do
        on "${node_of[$name]}" "cd /run/locks && kill -KILL \$(cat $name.pid) && rm $name.*"
        unset "node_of[$name]"
    done
}
