# The clients VM: each client is a network, mount and UTS namespace with rpcbind, rpc.statd and /var/lib/nfs of its own.

clients_up() {
    local device
    modprobe -a bridge veth nfs nfsv3
    device=$(by_mac 52:54:00:00:00:09)
    # Without an address of its own a bridge takes that of its ports, and changes it with them.
    ip link add br0 address 52:54:00:00:00:0b type bridge forward_delay 0
    ip link set "$device" master br0 up
    ip link set br0 up
    ip addr add 10.0.0.9/24 dev br0
    boot_client c1 10.0.0.11
    boot_client c2 10.0.0.12
    boot_client c3 10.0.0.13
    python3 -I /lab/agent.py >/dev/null 2>&1 &
}

# boot_client NAME ADDRESS: its disk is /disk/NAME, which outlives it
boot_client() {
    local name=$1 address=$2 pid
    mkdir -p /disk /mnt
    [ -d "/disk/$name" ] || cp -a /var/lib/nfs "/disk/$name"
    setsid unshare --net --mount --uts -- sleep inf </dev/null >/dev/null 2>&1 &
    pid=$!
    echo $pid >"/run/ns.$name"
    # Until it has unshared, it shows the namespace of this VM.
    until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ] &&
        [ "$(cat /proc/$pid/comm)" = sleep ]; do sleep 0.05; done
    ip link add "v$name" type veth peer name eth0 netns $pid
    ip link set "v$name" master br0 up
    nsenter -t $pid -n -m -u -- bash -c "
        hostname $name
        mount --make-rprivate /
        mount -t tmpfs tmpfs /run
        mount -t sysfs sys /sys
        mount --bind /disk/$name /var/lib/nfs
        ip link set lo up
        ip link set eth0 up
        ip addr add $address/24 dev eth0
        rpcbind -w
        rpc.statd" </dev/null >/dev/null 2>&1
}

# crash_client NAME: its network is gone for good and nothing of it runs on that could tell anybody; to the others it
# is a machine without power. Its kernel's part (connections, held locks) stays behind in the namespace, cut off.
crash_client() {
    ip link del "v$1"
}
