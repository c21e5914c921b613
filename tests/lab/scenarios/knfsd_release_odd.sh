# Single locks where something is odd: a deleted file, a local process, a release that is killed, an owner over UDP.
. /lab/kernel.sh
serve
process A c1 a
process D c3 b
ask A lock 20 5 >/dev/null
# --- a file that is deleted: freed or left, and told as it is
ask D lock 0 5 >/dev/null
handle=$(of /srv/x/b 0 .file)
rm /srv/x/b
one --file "$handle"
now=$(lock_set | wc -l)
if [ $code = 0 ]; then equal "freed, and gone" "$now" 1; else
    equal "left, and there" "$code $now $(told '.release.left[0].why | length > 0')" "3 2 true"
fi
touch /srv/x/b && chmod 666 /srv/x/b

# --- locks of the server's own processes are not lockd's
python3 -c 'import fcntl, os, time
f = os.open("/srv/x/c", os.O_RDWR); fcntl.lockf(f, fcntl.LOCK_EX, 10); print("locked", flush=True); time.sleep(600)' >/run/local.txt &
local=$!
await 10 grep -q locked /run/local.txt
one --file /srv/x/c
equal "a local process keeps its lock" "$code $(awk -v pid=$local '$5 == pid' /proc/locks | wc -l)" "2 1"
kill $local

# --- root is squashed, and only the user who owns the file may read it
process S c3 c
ask S lock 0 5 >/dev/null
chown 1000:1000 /srv/x/c && chmod 600 /srv/x/c
exportfs -o rw,root_squash,no_subtree_check,insecure,fsid=1 '*:/srv/x'
one --file /srv/x/c
equal "a lock on a file that root may not read is free" "$code $(told .release.released.locks)" "0 1"
exportfs -ra
chmod 666 /srv/x/c
stop S

# --- killed in the middle: the rule and the route stay, and the next command removes them
process E c3 c
ask E lock 0 5 >/dev/null
strace -f --seccomp-bpf -o /dev/null -e trace=connect -e inject=connect:delay_enter=20000000 \
    nlmctl --json --manager knfsd --db /run/runs.db --name srv.lab release --live --yes --file /srv/x/c >/run/killed.json 2>&1 &
check "the rule is there while it asks" await 120 has_traces
kill -KILL "$(pgrep -x nlmctl)"
wait $! 2>/dev/null
check "a killed one leaves its rule" has_traces
knfsd status >/run/status.json 2>/run/status.err
check "the next command removes it" no_traces
note "$(cat /run/status.err)"
one --file /srv/x/c
equal "and the lock can be freed" "$code $(told .release.released.locks)" "0 1"

# --- an owner that called by UDP: an NM_LOCK (22) by hand, since Linux clients mount over TCP. With its client's own name:
# lockd keeps the name for later calls from that address
handle=$(of /srv/x/a 20 .file)
port=$(rpcinfo -p | awk '$1 == 100021 && $2 == 4 && $3 == "udp" { print $4 }')
on c2 "python3 -c '
import os, socket, struct
def number(n): return struct.pack(\">I\", n)
def text(b): return number(len(b)) + b + bytes(-len(b) % 4)
lock = text(b\"c2\") + text(bytes.fromhex(\"$handle\")) + text(b\"77@c2\") + number(77) + struct.pack(\">QQ\", 500, 10)
call = number(7) + number(0) + number(2) + number(100021) + number(4) + number(22) + number(1)
call += text(number(0) + text(b\"c2\") + number(0) * 3) + number(0) * 2
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20); s.bind((\"10.0.0.12\", 901))
s.sendto(call + text(b\"one\") + number(0) + number(1) + lock + number(0) + number(0), (\"10.0.0.1\", $port))
print(s.recv(999)[-4:])'" >/run/udp.txt 2>&1
note "$(cat /run/udp.txt)"
equal "a lock over UDP is held" "$(of /srv/x/a 500 '"\(.owner.transport) \(.owner.svid)"')" "udp 77"
one --file /srv/x/a --owner 77
equal "it is free" "$code $(told .release.released.locks)" "0 1"
verdict
