# What is lost is named: the locks of a client that is cut off, and one whose range a local process took meanwhile.
. /lab/kernel.sh
serve
process A c1 a
process B c2 b
process C c3 c
process D c3 y/d
ask A lock 0 10 >/dev/null
ask B lock 0 0 >/dev/null
ask C lock 20 10 >/dev/null
ask D lock 7 1 >/dev/null
check "four locks are held" held 4
before=$(lock_set)
kept=$(grep -E ' (0 9|0 EOF)$' <<<"$before")
records=$(monitored)

on vm "ip link set vc3 down"
resync --method reboot
equal "keeping what can't be kept is refused" $code 4
equal "and nothing was touched" "$(lock_set)" "$before"
resync --method reboot --unreachable drop --grace 15s
equal "exit code" $code 3
equal "in scope, reclaimed, dropped, unverified, resurrected, conflicts" "$(sums)" "4 2 2 0 0 0"
equal "who did not answer" "$(told '.clients[] | select(.fate != "acked") | .name')" c3.lab
equal "the others' locks are held" "$(lock_set)" "$kept"
check "grace is over" not_in_grace
check "a lost lock is named with its path" grep -q "20-29 of .*/srv/x/c.* was not reclaimed" <<<"$(timeline)"
check "the other one too" grep -q "7-7 of .*/srv/y/d.* was not reclaimed" <<<"$(timeline)"
equal "statd still has every client" "$(monitored)" "$records"
on vm "ip link set vc3 up"
stop C D

python3 - <<'P' &
import fcntl
with open("/srv/x/a", "r+") as file:
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
            break
        except OSError:
            pass
    open("/run/thief", "w").close()
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 1000)
    import time
    time.sleep(600)
P
thief=$!
resync --method reboot --grace 15s
equal "with a thief: exit code" $code 6
equal "with a thief: in scope, reclaimed, dropped, unverified, resurrected, conflicts" "$(sums)" "2 1 1 0 0 1"
check "the thief is named" grep -q "0-9 of .*/srv/x/a.* local process python3 (pid $thief)" <<<"$(timeline)"
equal "and is in the record" "$(knfsd runs show "$(told .run.id)" | jq -r '[.. | objects | select(.fate? == "conflict") | .other.svid] | unique | join(" ")')" $thief
kill $thief
verdict
