"""An NLM client in user space, for what the kernel's does not do: nlm.py KEY=VALUE...

file=HEX        the handle of the file; required
server=ADDRESS  10.0.0.1            proto=tcp|udp  tcp
version=1|3|4   4                   caller=NAME    this host's
svid=N          4711                source=ADDRESS any
gss=1           calls as RPCSEC_GSS has them, of a context that lockd does not know
cut=whole       over TCP each call is sent by itself (whole), byte by byte (bytes), or with half of it in the segment of
                the call before (halves), which comes with an UNLOCK of nothing
A command a line on stdin, an answer a line on stdout: what lockd said, or "nothing".
lock|share|wait|reclaim|reshare START LENGTH    a LOCK: exclusive, shared, with block; the same as a reclaim
unlock|test START LENGTH
comb START TEETH [SVIDS]        TEETH locks of a byte on every other byte, in turns of SVIDS processes: how often it said what
recomb START TEETH [SVIDS]      reclaims of those
pace SECONDS START               for so long: locks a byte and unlocks it, one call after the other; what was said how often, and
                                the time that a LOCK took (ms)
What happens to its connection is on stderr, with the time since the machine's start.
"""
import collections, os, socket, struct, sys, time

given = dict(word.split("=", 1) for word in sys.argv[1:])
SERVER = given.get("server", "10.0.0.1")
FAMILY = socket.AF_INET6 if ":" in SERVER else socket.AF_INET
UDP = given.get("proto", "tcp") == "udp"
VERSION = int(given.get("version", 4))
CALLER = given.get("caller", socket.gethostname()).encode()
SVID = int(given.get("svid", 4711))
CUT = given.get("cut", "whole")
HANDLE = bytes.fromhex(given["file"])
if VERSION < 4:
    # As NFSv2 has it: 32 bytes, padded with zeros.
    HANDLE = HANDLE.ljust(32, b"\0")
TEST, LOCK, UNLOCK = 1, 2, 4
SAYS = ["granted", "denied", "no locks", "blocked", "grace", "deadlock", "read-only", "stale", "too big", "failed"]
NLM, RPCBIND = 100021, 100000
WINDOW = 64
PATIENCE = 2.0
TRIES = 15


def log(*what):
    print("%.3f" % time.monotonic(), *what, file=sys.stderr, flush=True)


def words(*numbers):
    return struct.pack(">%dI" % len(numbers), *[number & 0xFFFFFFFF for number in numbers])


def opaque(value):
    return words(len(value)) + value + bytes(-len(value) % 4)


def record(message):
    return words(len(message) | 1 << 31) + message


def call(xid, program, version, procedure, arguments):
    unix = opaque(words(0) + opaque(CALLER) + words(0, 0, 0))
    return words(xid, 0, 2, program, version, procedure, 1) + unix + words(0, 0) + arguments


def sealed(xid, procedure, arguments):
    """A call with RPCSEC_GSS and integrity (RFC 2203): the arguments are in an opaque with a checksum behind."""
    credential = words(1, 0, xid, 2) + opaque(b"unknown")
    header = words(xid, 0, 2, NLM, VERSION, procedure, 6) + opaque(credential) + words(6) + opaque(bytes(28))
    return header + opaque(words(xid) + arguments) + opaque(bytes(28))


def port():
    """As rpcbind tells it to who asks by the same way."""
    old = FAMILY == socket.AF_INET
    ask = words(NLM, VERSION, 17 if UDP else 6, 0) if old else words(NLM, VERSION) + opaque(b"") * 3
    message = call(1, RPCBIND, 2 if old else 3, 3, ask)
    with socket.socket(FAMILY, socket.SOCK_DGRAM if UDP else socket.SOCK_STREAM) as line:
        line.settimeout(20)
        line.connect((SERVER, 111))
        line.sendall(message if UDP else record(message))
        said = line.recv(999)[24 if UDP else 28 :]
    if old:
        return struct.unpack(">I", said[:4])[0]
    high, low = said[4 : 4 + struct.unpack(">I", said[:4])[0]].decode().split(".")[-2:]
    return int(high) * 256 + int(low)


def message(xid, procedure, arguments):
    if "gss" in given:
        return sealed(xid, procedure, arguments)
    return call(xid, NLM, VERSION, procedure, arguments)


class Line:
    """Calls out, replies in; what is lost is sent again."""

    def __init__(self):
        self.xid = int.from_bytes(os.urandom(3), "big") << 8
        self.port, self.socket, self.read = port(), None, b""

    def connect(self):
        self.close()
        kind = socket.SOCK_DGRAM if UDP else socket.SOCK_STREAM
        self.socket = socket.socket(FAMILY, kind)
        self.socket.settimeout(PATIENCE)
        if "source" in given:
            self.socket.bind((given["source"], 0))
        self.socket.connect((SERVER, self.port))
        if not UDP:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        log("connected from", self.socket.getsockname()[1])

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket, self.read = None, b""

    def send(self, said):
        if UDP:
            return self.socket.send(said)
        whole = record(said)
        if CUT == "bytes":
            for at in range(len(whole)):
                self.socket.sendall(whole[at : at + 1])
        elif CUT == "halves":
            # A call before it whose reply nobody waits for.
            before = record(call(self.xid + (1 << 30), NLM, VERSION, UNLOCK, unlock_of(SVID, 1 << 20, 1)))
            half = len(whole) // 2
            self.socket.sendall(before + whole[:half])
            time.sleep(0.05)
            self.socket.sendall(whole[half:])
        else:
            self.socket.sendall(whole)

    def receive(self):
        """The next reply: its number, and what comes behind the RPC header."""
        while not UDP:
            if len(self.read) >= 4:
                length = struct.unpack(">I", self.read[:4])[0] & 0x7FFFFFFF
                if len(self.read) >= 4 + length:
                    message, self.read = self.read[4 : 4 + length], self.read[4 + length :]
                    break
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionResetError
            self.read += more
        else:
            message = self.socket.recv(65536)
        return struct.unpack(">I", message[:4])[0], message[24:]

    def ask(self, procedure, many):
        """Sends these calls, WINDOW at a time; gives what was said to each, in their order."""
        said, waiting, todo, tries = {}, {}, collections.deque(enumerate(many)), 0
        while todo or waiting:
            try:
                if not self.socket:
                    self.connect()
                while todo and len(waiting) < WINDOW:
                    place, arguments = todo.popleft()
                    self.xid += 1
                    waiting[self.xid] = (place, arguments)
                    self.send(message(self.xid, procedure, arguments))
                xid, result = self.receive()
                if xid in waiting:
                    place, _ = waiting.pop(xid)
                    said[place] = stat(result)
                    tries = 0
            except OSError as error:
                tries += 1
                log("try", tries, "of", len(waiting), "calls:", repr(error))
                if tries > TRIES:
                    return [said.get(place, "nothing") for place in range(len(many))]
                if UDP and self.socket:
                    for xid, (_, arguments) in waiting.items():
                        self.send(message(xid, procedure, arguments))
                else:
                    self.close()
                    todo.extendleft(sorted(waiting.values(), key=lambda one: -one[0]))
                    waiting = {}
                    time.sleep(0.1)
        return [said[place] for place in range(len(many))]


def stat(result):
    """Behind the cookie."""
    if len(result) < 8:
        return "rejected"
    length = struct.unpack(">I", result[:4])[0]
    number = struct.unpack(">I", result[4 + length + -length % 4 :][:4])[0]
    return SAYS[number] if number < len(SAYS) else str(number)


def lock_of(svid, start, length):
    oh = opaque(b"%d@" % svid + CALLER)
    numbers = struct.pack(">QQ", start, length) if VERSION == 4 else words(start, length)
    return opaque(CALLER) + opaque(HANDLE) + oh + words(svid) + numbers


def wanted(svid, start, length, exclusive=1, block=0, reclaim=0):
    return opaque(b"abcd") + words(block, exclusive) + lock_of(svid, start, length) + words(reclaim, 3)


def unlock_of(svid, start, length):
    return opaque(b"abcd") + lock_of(svid, start, length)


line = Line()


def lock(*numbers, **how):
    return line.ask(LOCK, [wanted(SVID, *numbers, **how)])[0]


def comb(start, teeth, svids=1, **how):
    many = [wanted(SVID + tooth % svids, start + 2 * tooth, 1, **how) for tooth in range(teeth)]
    began = time.monotonic()
    tally = collections.Counter(line.ask(LOCK, many))
    took = time.monotonic() - began
    return " ".join("%s=%d" % one for one in sorted(tally.items())) + " seconds=%.1f" % took


def pace(seconds, start):
    tally, took, end = collections.Counter(), [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        said = lock(start, 1)
        took.append(time.monotonic() - began)
        tally[said] += 1
        line.ask(UNLOCK, [unlock_of(SVID, start, 1)])
    took.sort()
    at = lambda part: 1000 * took[min(int(part * len(took)), len(took) - 1)]
    counts = " ".join("%s=%d" % one for one in sorted(tally.items()))
    return "%s rate=%.0f/s p50=%.1f p99=%.1f max=%.1f" % (counts, len(took) / seconds, at(0.5), at(0.99), at(1))


VERBS = {
    "lock": lock,
    "share": lambda *numbers: lock(*numbers, exclusive=0),
    "wait": lambda *numbers: lock(*numbers, block=1),
    "reclaim": lambda *numbers: lock(*numbers, reclaim=1),
    "reshare": lambda *numbers: lock(*numbers, exclusive=0, reclaim=1),
    "unlock": lambda start, length: line.ask(UNLOCK, [unlock_of(SVID, start, length)])[0],
    "test": lambda start, length: line.ask(TEST, [opaque(b"abcd") + words(1) + lock_of(SVID, start, length)])[0],
    "comb": comb,
    "recomb": lambda *numbers: comb(*numbers, reclaim=1),
    "pace": pace,
}
print("ready", flush=True)
for text in sys.stdin:
    verb, *numbers = text.split()
    log("asked:", text.strip())
    said = VERBS[verb](*map(int, numbers))
    log("answer:", said)
    print(said, flush=True)
