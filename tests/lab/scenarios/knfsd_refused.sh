# A server that a run would hurt is left alone.
. /lab/kernel.sh
serve
process A c1 a
ask A lock 0 10 >/dev/null
before=$(lock_set)
number=$(state)
lockd=$(cat /proc/"$(pgrep -x lockd)"/stat | cut -d' ' -f1,22)
records=$(monitored)
untouched() {
    equal "$1: the lock is held" "$(lock_set)" "$before"
    equal "$1: the state number is as before" "$(state)" "$number"
    equal "$1: lockd is the same" "$(cat /proc/"$(pgrep -x lockd)"/stat | cut -d' ' -f1,22)" "$lockd"
    check "$1: no grace" not_in_grace
    check "$1: NFS is served" serves
    equal "$1: statd has every client" "$(monitored)" "$records"
}

modprobe -a nfs nfsv3
mkdir -p /run/own
mount -t nfs -o vers=3,proto=tcp 10.0.0.1:/srv/x /run/own
resync --method reboot
equal "an NFSv3 mount of this host: exit code" $code 4
check "an NFSv3 mount of this host: it is named" grep -q /run/own <<<"$(told .error.message)"
untouched "an NFSv3 mount of this host"
if ! takes_signal; then
    resync --method reboot --own-locks-lost
    equal "also with the consent to lose its own locks: exit code" $code 4
    untouched "also with the consent to lose its own locks"
fi
umount /run/own

echo N >/proc/fs/lockd/nlm_end_grace 2>/dev/null
pkill -x rpc.statd
resync --method reboot
equal "no statd: exit code" $code 4
check "no statd: said" grep -q rpc.statd <<<"$(told .error.message)"
untouched "no statd"
rpc.statd
await 20 rpcinfo -t 127.0.0.1 status 1

on vm "dmesg -c" >/dev/null
resync --method reboot --mode targeted --client c1.lab
equal "a narrower scope: exit code" $code 2
untouched "a narrower scope"
resync --method reboot
equal "with nothing in the way: exit code" $code 0
equal "with nothing in the way: the same lock" "$(lock_set)" "$before"
verdict
