# A server behind a bridge, a VLAN and IPv6: reclaims come through the filter there, and what was forgotten is freed by every way.
. /lab/grace.sh
end_keeper
serve
wire=$(by_mac 52:54:00:00:00:01)
modprobe -a bridge 8021q
on vm 'modprobe 8021q'
ip addr flush dev "$wire"
ip link add bridge0 type bridge forward_delay 0
ip link set "$wire" master bridge0
ip link set bridge0 up
ip addr add 10.0.0.1/24 dev bridge0
ip addr add 10.0.0.2/24 dev bridge0
ip addr add fd00::1/64 dev bridge0 nodad
ip link add link bridge0 name vlan5 type vlan id 5
ip link set vlan5 up
ip addr add 10.5.0.1/24 dev vlan5
for number in 11 12; do
    on c$((number - 10)) "ip link add link eth0 name vlan5 type vlan id 5; ip link set vlan5 up; ip addr add 10.5.0.$number/24 dev vlan5"
done
on c3 'ip addr add fd00::13/64 dev eth0 nodad'
await 30 on c1 'ping -c 1 -W 1 10.5.0.1'
on c1 'mkdir -p /mnt5; mount -t nfs -o vers=3,proto=tcp 10.5.0.1:/srv/x /mnt5 || echo "no mount through the VLAN"'

process V c1 ../mnt5/a
process B c2 b
process C c3 c
equal "V locks through the VLAN" "$(ask V lock 0 10)" granted
equal "B locks through the bridge" "$(ask B lock 0 10)" granted
equal "C locks through the bridge" "$(ask C lock 0 10)" granted
equal "V calls through the VLAN" "$(knfsd locks | jq -r '.locks[] | select(.path == "/srv/x/a") | "\(.owner.address) \(.owner.server_address)"')" "10.5.0.11 10.5.0.1"
live=$(lock_set)
equal "forgotten through the VLAN" "$(orphan c1 /srv/x/a 50 10 server=10.5.0.1)" granted
equal "forgotten through the VLAN, over UDP" "$(orphan c2 /srv/x/a 70 10 server=10.5.0.1 proto=udp)" granted
equal "forgotten through the bridge" "$(orphan c2 /srv/x/b 50 10)" granted
equal "forgotten over IPv6" "$(orphan c3 /srv/x/b 70 10 server=fd00::1)" granted
equal "forgotten over IPv6 and UDP" "$(orphan c3 /srv/x/b 90 10 server=fd00::1 proto=udp)" granted
on vm dmesg -c >/dev/null
grace_run --silent drop
note "exit $code; $(timeline | grep -iE 'kept|conflict' | head -n 5)"
equal "what was forgotten is gone by every way" "$(lock_set)" "$live"
equal "sums" "$(sums) $(told .locks.kept)" "8 3 5 0 0 0 0"
equal "no client complains" "$(complaints)" ""
check "no rule or route is left" no_traces

end_keeper
stop V
on c1 'umount -l /mnt5'
for client in c1 c2; do on $client 'ip link del vlan5'; done
ip link del vlan5
ip link del bridge0
ip addr add 10.0.0.1/24 dev "$wire"
ip addr add 10.0.0.2/24 dev "$wire"
await 30 agent_answers
verdict
