# Whose the kernel's locks are, read from its memory: on which path, behind whom, and told rightly or not at all while
# locks come and go. At the end the kernel is locked down, so this wants a boot of its own.
. /lab/kernel.sh
serve
ip addr add fd00::1/64 dev "$(by_mac 52:54:00:00:00:01)" nodad
on c3 'ip addr add fd00::13/64 dev eth0 nodad; mkdir -p /mnt6
    mount -t nfs -o vers=3,proto=tcp6,mountproto=tcp6 "[fd00::1]:/srv/x" /mnt6 || echo "no mount by IPv6"'

process A c1 a
process B c2 y/d
process C c3 a
process D c1 c
process E c3 ../mnt6/b
process W c2 a
ask A lock 0 10 >/dev/null
ask A share 100 5 >/dev/null
ask B lock 7 0 >/dev/null
ask C share 100 5 >/dev/null
ask D lock 0 1 >/dev/null
ask E lock 1 1 >/dev/null
rm /srv/x/c
check "six locks are held" held 6
tell W wait 0 5
equal "W waits" "$(reply W 3)" nothing

# rows: of the last listing, a line each
rows() {
    jq -r '.locks[] | "\(.state) \(.owner.name) \(.owner.address) to \(.owner.server_address) \(.owner.transport) \(.owner.version) " +
        "\(.kind) \(.start)-\(.end) \(.path) = \(.export) + \(.path_in_export) deleted \(.deleted) monitored \(.monitored)"' \
        /run/locks.json | sort
}
# list [FLAG]...: a listing, into /run/locks.json
list() { knfsd locks "$@" >/run/locks.json 2>/run/locks.err || note "exit $?: $(cat /run/locks.json /run/locks.err)"; }
how() { jq -r .owners.how /run/locks.json; }
why_not() { jq -r '"\(.owners.why_not); \(.owners.remedy)"' /run/locks.json; }

waits="waiting c2 10.0.0.12 to 10.0.0.1 tcp 4 write 0-4 /srv/x/a = /srv/x + a deleted false monitored true"
keeps_requests || waits=
held_rows="held c1 10.0.0.11 to 10.0.0.1 tcp 4 read 100-104 /srv/x/a = /srv/x + a deleted false monitored true
held c1 10.0.0.11 to 10.0.0.1 tcp 4 write 0-0 /srv/x/c = /srv/x + c deleted true monitored true
held c1 10.0.0.11 to 10.0.0.1 tcp 4 write 0-9 /srv/x/a = /srv/x + a deleted false monitored true
held c2 10.0.0.12 to 10.0.0.1 tcp 4 write 7-null /srv/y/d = /srv/y + d deleted false monitored true
held c3 10.0.0.13 to 10.0.0.1 tcp 4 read 100-104 /srv/x/a = /srv/x + a deleted false monitored true
held c3 fd00::13 to fd00::1 tcp 4 write 1-1 /srv/x/b = /srv/x + b deleted false monitored true"
all_rows=$(printf '%s\n%s' "$held_rows" "$waits" | sed '/^$/d')
list
equal "each lock has its owner and its path" "$(rows)" "$all_rows"
equal "how is said" "$(how)" "read from kernel memory"
if [ -n "$waits" ]; then
    equal "who waits is behind A" "$(jq -c '[.locks[] | select(.behind) | .behind[] | [.name, .address]]' /run/locks.json)" \
        '[["c1","10.0.0.11"]]'
    equal "A's svid is the one waited for" "$(jq '[.locks[] | select(.behind) | .behind[0].svid]' /run/locks.json)" \
        "$(jq '[.locks[] | select(.kind == "write" and .start == 0 and .end == 9) | .owner.svid]' /run/locks.json)"
fi
equal "two processes of c1 are two owners" \
    "$(jq '[.locks[] | select(.owner.name == "c1" and .state == "held") | .owner.svid] | unique | length' /run/locks.json)" 2
list --client c3
equal "one client's locks alone" "$(rows)" "$(grep ' c3 ' <<<"$all_rows")"
nlmctl --manager knfsd locks
nlmctl --manager knfsd clients
nlmctl --manager knfsd status

counts() { knfsd clients | jq -r '.clients[] | select(.locks > 0) | "\(.addresses | join(",")) \(.locks) \(.unmonitored) \(.waiters) \(.monitored)"' | sort; }
equal "clients have their counts" "$(counts)" "10.0.0.11 3 0 0 true
10.0.0.12 1 0 $([ -n "$waits" ] && echo 1 || echo 0) true
10.0.0.13 1 0 0 true
fd00::13 1 0 0 true"
equal "the status says how" "$(knfsd status | jq -r '"\(.manager.owners.how) \(.manager.unmonitored) \(.manager.capabilities | contains(["lists-owners"]))"')" \
    "read from kernel memory 0 true"
knfsd check >/run/check.json 2>&1 || { note "check: exit $?"; cat /run/check.json; }
equal "so does the check" "$(jq -r '.check.findings[] | select(.about == "owners") | .severity' /run/check.json)" ok

note "locks come and go: on the file that others hold, and on others that are opened and closed for it"
process L c2 b
process M c3 b
process N c1 a
process O c2 y/e
tell L count 1000 1
tell M count 1000 1
tell N count 1000 1 2000
tell O count 1000 1
right=0 refused=0 wrong=0
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    list
    if [ "$(how)" = null ]; then
        refused=$((refused + 1))
        note "$(why_not)"
    elif [ "$(rows | grep -vE ' 0-0 /srv/x/b | 2000-2000 | /srv/y/e ')" = "$all_rows" ]; then
        right=$((right + 1))
    else
        wrong=$((wrong + 1))
        note "$(rows)"
    fi
done
note "$right right, $refused refused, $wrong wrong"
equal "no list is wrong" $wrong 0
equal "none is refused" $refused 0
stop L M N O

unknown() {
    equal "locks are listed without owners" "$(jq -c '[.locks[] | [.owner.name, .owner.svid, .monitored]] | unique' /run/locks.json)" \
        '[[null,null,null]]'
    equal "all of them" "$(jq '[.locks[] | select(.state == "held")] | length' /run/locks.json)" 6
}
sysctl -q kernel.kptr_restrict=2
list
equal "hidden addresses are named, with what to do" "$(why_not)" \
    "the kernel hides its addresses (/proc/kallsyms shows zeros); set the sysctl kernel.kptr_restrict to 0 or 1, and run nlmctl as root"
unknown
sysctl -q kernel.kptr_restrict=0
list
equal "and then they are back" "$(rows)" "$all_rows"

mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
if echo integrity >/sys/kernel/security/lockdown; then
    list
    equal "lockdown=integrity is no obstacle" "$(rows)" "$all_rows"
    echo confidentiality >/sys/kernel/security/lockdown
    list
    equal "lockdown=confidentiality is named" "$(why_not | cut -d, -f1)" "the kernel is locked down for confidentiality"
    unknown
    equal "no client has a count" "$(knfsd clients | jq -c '[.clients[].locks] | unique')" "[null]"
    equal "the check says so, and that a run is refused" "$(knfsd check 2>/dev/null \
        | jq -r '[.check.findings[] | select(.about == "owners") | "\(.severity) \(.remedy != null)"] | unique | join(",")')" \
        "note true,problem true"
    equal "a run is refused, and told of the other way" \
        "$(knfsd resync --dry-run 2>/dev/null | grep -c 'locked down for confidentiality.*--method reboot')" 1
    equal "the locks of one client cannot be listed" "$(knfsd locks --client c1 2>/dev/null | jq .error.exit)" 4
    nlmctl --manager knfsd locks
    nlmctl --manager knfsd clients
else
    note "this kernel has no lockdown"
fi
verdict
