"""A process that locks ranges of one file: locker.py FILE. A command a line on stdin, an answer a line on stdout.

lock|share|wait START LENGTH    F_SETLK exclusive or shared, F_SETLKW: "granted", "refused" or the error
unlock START LENGTH             "unlocked" or the error
comb START TEETH                TEETH locks of a byte each, on every other byte: "granted", "refused" or the error
count SECONDS LENGTH [START]    for so long, again and again: waits for a lock of LENGTH bytes, the first ones as a rule,
                                adds 1 to the number in the file, and unlocks: how often it did
"""
import errno, fcntl, os, sys, time

file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)


def lock(how, start, length):
    fcntl.lockf(file, how, length, start)
    return "unlocked" if how == fcntl.LOCK_UN else "granted"


def comb(start, teeth):
    for tooth in range(teeth):
        lock(fcntl.LOCK_EX | fcntl.LOCK_NB, start + 2 * tooth, 1)
    return "granted"


def count(seconds, length, start=0):
    added = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lock(fcntl.LOCK_EX, start, length)
        number = int(os.pread(file, 20, 0) or 0)
        os.pwrite(file, b"%020d" % (number + 1), 0)
        lock(fcntl.LOCK_UN, start, length)
        added += 1
    return added


VERBS = {
    "lock": lambda start, length: lock(fcntl.LOCK_EX | fcntl.LOCK_NB, start, length),
    "share": lambda start, length: lock(fcntl.LOCK_SH | fcntl.LOCK_NB, start, length),
    "wait": lambda start, length: lock(fcntl.LOCK_EX, start, length),
    "unlock": lambda start, length: lock(fcntl.LOCK_UN, start, length),
    "comb": comb,
    "count": count,
}
print("ready", flush=True)
for line in sys.stdin:
    verb, *numbers = line.split()
    try:
        answer = VERBS[verb](*map(int, numbers))
    except OSError as error:
        refused = error.errno in (errno.EAGAIN, errno.EACCES)
        answer = "refused" if refused else errno.errorcode.get(error.errno, str(error.errno))
    print(answer, flush=True)
