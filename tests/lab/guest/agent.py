"""The control port of the clients VM. One connection is one command: "NODE BASE64\n" in, what the command prints out."""
import base64, os, signal, socket

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
    node, command = connection.makefile().readline().split()
    argv = ["bash", "-c", base64.b64decode(command).decode()]
    if node != "vm":
        with open("/run/ns." + node) as file:
            argv = ["nsenter", "-t", file.read().strip(), "-n", "-m", "-u", "--"] + argv
    for descriptor in (1, 2):
        os.dup2(connection.fileno(), descriptor)
    os.execvp(argv[0], argv)
