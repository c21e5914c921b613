# kill -9 of nlmctl at the beginning of a run, also while nfsd has no thread: service comes back by itself, and the next
# command finds the truth.
. /lab/kernel_killed.sh
if ! takes_signal; then
    slowed -P $NFSD/threads -e trace=write -e inject=write:delay_exit=3000000:when=1
    killed_when no_threads
    whole_again "without a thread"
    go_on "without a thread"
fi
at_renames
for at in "beginning false" "grace false"; do
    killed_when in_phase "$at"
    whole_again "$at"
    go_on "$at"
done
verdict
