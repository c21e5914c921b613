# One client's locks are freed, nobody else's; a blocked request gets what became free.
. /lab/kernel.sh
serve
process A c1 a
process B c2 b
process C c3 a
ask A lock 0 10 >/dev/null
ask A lock 50 10 >/dev/null
ask B lock 0 0 >/dev/null
check "three locks are held" held 3
on vm "ip link set vc1 down"
tell C wait 0 5
equal "C waits" "$(reply C 3)" nothing
knfsd release --yes --client c1.lab >/run/report.json 2>/run/release.err
note "exit $?; $(cat /run/report.json /run/release.err)"
equal "the waiter got the range" "$(reply C)" granted
equal "only c1's locks went" "$(lock_set | cut -d' ' -f3-)" "$(printf '0 4\n0 EOF')"
check "no grace" not_in_grace
on vm "ip link set vc1 up"
verdict
