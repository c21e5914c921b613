# What .ci/run and .ci/nightly share. Sourced, not run.

began=$SECONDS
say() { printf '\n== [%s s] %s\n' $((SECONDS - began)) "$*"; }

packages=(
    gcc libc6-dev                                         # the bundled SQLite is C
    rpcbind nfs-common iproute2 rpcsvc-proto libtirpc-dev # the tests with a real rpcbind, rpc.statd and foreign peers
    nfs-ganesha nfs-ganesha-vfs dbus                      # the tests with a real NFS-Ganesha
    qemu-system-x86 debootstrap kmod cpio binutils        # the lab: tests/lab/README.md
    chromium fonts-dejavu-core                            # the page of a run, as a browser shows it
)

install_packages() {
    local missing=() package component
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        say "installing ${missing[*]}"
        apt_install "${missing[@]}"
    fi
    for component in rustfmt clippy; do
        if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
            say "installing $component"
            rustup component add "$component"
        fi
    done
}

apt_install() ( # PACKAGE...
    # Debian asks this file whether a package may start its services.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
)

# beside NAME COMMAND...: runs the command in the background; its output goes to target/ci/NAME.log.
declare -A beside=()
beside() {
    mkdir -p target/ci
    "${@:2}" >"target/ci/$1.log" 2>&1 &
    beside[$1]=$!
}
# joined NAME: waits for that command, prints its output, and fails if it failed.
joined() {
    local code=0
    wait "${beside[$1]}" || code=$?
    unset "beside[$1]"
    cat "target/ci/$1.log"
    return $code
}
# A failure must not leave commands behind that still run.
stop_all_beside() {
    local pid
    for pid in "${beside[@]}"; do
        pkill -P "$pid" 2>/dev/null || true
        kill "$pid" 2>/dev/null || true
    done
}
trap stop_all_beside EXIT

# demo_figures NLMCTL: the demo of README, with its figures checked.
demo_figures() {
    local report code=0 wanted
    report=$("$1" demo --clients 50 --locks 20 --dead 3 --stale 4 --rebooted 2 --lost 5 --json) || code=$?
    echo "$report"
    wanted='"locks":{"in_scope":995,"reclaimed":891,"released":0,"dropped":104,"kept":0,"unverified":0,"resurrected":5,"conflicts":0},"clients":'
    if [[ $report != *"$wanted"* ]]; then
        echo "the demo's figures are not $wanted" >&2
        return 1
    fi
    if [ "$code" -ne 3 ]; then
        echo "the demo exited with $code, not with 3 (locks were dropped as policy says)" >&2
        return 1
    fi
}
