# kill -9 of nlmctl later in a run, and one of which nobody knew before grace was over.
. /lab/kernel_killed.sh
at_renames
for at in "grace true" "settling true"; do
    killed_when in_phase "$at"
    whole_again "$at"
    go_on "$at"
done

note "killed between the drop and the notices, and grace is over when somebody comes"
killed_when in_phase "grace false"
if in_phase "grace false"; then
    open_now
    resync --method reboot --resume
    check "it is said that this run failed" test $code = 1
    check "and why" grep -q "not notified\|before any client was notified" <<<"$(told '.run.reason // .error.message')"
    resync --method reboot
    equal "the next run tells its clients: exit code" $code 0
    equal "as the server had lost them" "$(told .locks.resurrected)" 3
else
    note "that phase was not met"
    go_on "some other phase"
fi
equal "every lock is held again" "$(lock_set)" "$before"
verdict
