"""A process that locks ranges of one file: locker.py FILE. A command a line on stdin, an answer a line on stdout.

lock|share|wait START LENGTH    F_SETLK exclusive or shared, F_SETLKW: "granted", "refused" or the error
unlock START LENGTH             "unlocked" or the error
"""
import errno, fcntl, os, sys

VERBS = {
    "lock": (fcntl.LOCK_EX | fcntl.LOCK_NB, "granted"),
    "share": (fcntl.LOCK_SH | fcntl.LOCK_NB, "granted"),
    "wait": (fcntl.LOCK_EX, "granted"),
    "unlock": (fcntl.LOCK_UN, "unlocked"),
}
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
print("ready", flush=True)
for line in sys.stdin:
    verb, start, length = line.split()
    how, done = VERBS[verb]
    try:
        fcntl.lockf(file, how, int(length), int(start))
        answer = done
    except OSError as error:
        answer = "refused" if error.errno in (errno.EAGAIN, errno.EACCES) else errno.errorcode.get(error.errno, "?")
    print(answer, flush=True)
