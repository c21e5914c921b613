"""The control port of the clients VM. One connection is one command, a line:

run NODE BASE64             a shell command; what it prints comes back
tell NODE NAME WORDS        a line for the process of that name there (lib.sh)
reply NODE NAME SECONDS     what that process says next, or "nothing"
ask NODE NAME SECONDS WORDS both

Emulated, a shell takes half a second to start, and scenarios ask hundreds of times: so only `run` starts one.
"""
import base64, os, select, signal, socket, time


def pid_of(node):
    with open("/run/ns." + node) as file:
        return file.read().strip()


def pipe(node, name, end):
    # Opened for both, as its process has it, it is never waited for.
    return os.open(f"/proc/{pid_of(node)}/root/run/locks/{name}.{end}", os.O_RDWR)


def tell(node, name, *words):
    os.write(pipe(node, name, "in"), " ".join(words).encode() + b"\n")


def reply(node, name, seconds):
    end = time.monotonic() + float(seconds)
    out = pipe(node, name, "out")
    said = b""
    # By the byte: the next line is for who asks next.
    while not said.endswith(b"\n"):
        if not select.select([out], [], [], max(0, end - time.monotonic()))[0]:
            return "nothing"
        said += os.read(out, 1)
    return said.decode().strip()


def serve(connection):
    verb, node, *words = connection.makefile().readline().split()
    if verb == "run":
        argv = ["bash", "-c", base64.b64decode(words[0]).decode()]
        if node != "vm":
            argv = ["nsenter", "-t", pid_of(node), "-n", "-m", "-u", "--"] + argv
        for descriptor in (1, 2):
            os.dup2(connection.fileno(), descriptor)
        os.execvp(argv[0], argv)
    name, *words = words
    if verb == "tell":
        return tell(node, name, *words)
    seconds, *words = words
    if verb == "ask":
        tell(node, name, *words)
    connection.sendall(reply(node, name, seconds).encode() + b"\n")


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("10.0.0.9", 9999))
listener.listen(16)
while True:
    connection, _ = listener.accept()
    if os.fork():
        connection.close()
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        serve(connection)
    except Exception as error:
        connection.sendall(f"the agent failed: {error}\n".encode())
    os._exit(0)
