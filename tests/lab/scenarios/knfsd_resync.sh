# Three forced resyncs in a row of the kernel's own lockd: the same locks after each, and nothing else has changed.
. /lab/kernel.sh
serve
process A c1 a
process B c1 b
process D c1 y/d
process C c2 a
process E c2 c
process F c3 c
equal "A locks" "$(ask A lock 0 10)" granted
equal "B locks a whole file" "$(ask B lock 0 0)" granted
equal "D locks on the other export" "$(ask D lock 5 5)" granted
equal "C locks beside A" "$(ask C lock 100 10)" granted
equal "E shares" "$(ask E share 0 10)" granted
equal "F shares the same bytes" "$(ask F share 0 10)" granted
before=$(lock_set)
settings=$(settings)
if takes_signal; then :; else check "nfsd has a scope of its own" grep -q "scope: lab-scope" <<<"$settings"; fi
number=$(state)
equal "six locks are held" "$(wc -l <<<"$before")" 6
equal "statd has every client" "$(monitored)" "c1.lab c2.lab c3.lab"
way="for about a second"
if takes_signal; then way="by a signal"; fi
check "the plan says how" grep -q "$way" <<<"$(nlmctl --manager knfsd resync --method reboot --dry-run)"

for round in first second third; do
    resync --method reboot --grace 90s
    equal "$round: exit code" $code 0
    equal "$round: in scope, reclaimed, dropped, unverified, resurrected, conflicts" "$(sums)" "6 6 0 0 0 0"
    equal "$round: every client acked" "$(told '[.clients[].fate] | unique | join(" ")')" acked
    equal "$round: the same locks are held" "$(lock_set)" "$before"
    check "$round: grace was ended early" test "$(told .run.elapsed_ms)" -lt 60000
    check "$round: grace is over" not_in_grace
    equal "$round: nfsd is as before" "$(settings)" "$settings"
    equal "$round: statd still has every client" "$(monitored)" "c1.lab c2.lab c3.lab"
    number=$((number + 2))
    equal "$round: the state number is on disk" "$(state)" $number
    equal "$round: and in the kernel" "$(cat /proc/sys/fs/nfs/nsm_local_state)" $number
    note "$(timeline | grep -E 'stopped|signal|^grace')"
done
equal "no client complains" "$(on vm dmesg -c | grep -i 'reclaim')" ""
equal "nothing is left to put back" "$(ls $STATE | grep -v -E '\.run$|\.lock$')" ""
process G c3 a
equal "a held range is refused to another client" "$(ask G lock 0 10)" refused
ask A unlock 0 10 >/dev/null
equal "and free when its owner lets it go" "$(ask G lock 0 10)" granted
# What a reboot would find: it comes without a warning, so statd's folder is as it is now.
cp -a /var/lib/nfs /run/found-by-a-reboot
said=$(timeout 60 sm-notify -d -f -P /run/found-by-a-reboot 2>&1)
equal "a reboot later every client is told" "$(grep -o 'Host .* notified successfully' <<<"$said" | sort -u | wc -l)" 3
# The clients have heard its state number now, and would take no notice of it a second time.
cp /run/found-by-a-reboot/state /var/lib/nfs/state
verdict
