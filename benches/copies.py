"""What it costs to take values in from a TCP connection and copy them to another place, without anything else: a floor for a
replicated write of a large value.

    python3 benches/copies.py BYTES COUNT

A client sends COUNT values; a first process receives each, copies it once, and sends it on over loopback; a second one receives
it and copies it; each value is confirmed by a byte. Prints the processor time of both processes in microseconds a value. (The
interpreter and the system calls alone take some 30 of them: that matters below 64 KiB.)
"""

import os
import socket
import sys
import time


def receive(connection, buffer):
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            sys.exit("a connection ended early")
        view = view[count:]


def serve(listener, size, count, onward, report):
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer, kept = bytearray(size), None
    for _ in range(count):
        receive(connection, buffer)
        kept = bytes(buffer)
        if onward is not None:
            onward.sendall(buffer)
            receive(onward, bytearray(1))
        connection.sendall(b"k")
    del kept
    os.write(report, f"{time.process_time()}\n".encode())
    os._exit(0)


def main():
    size, count = int(sys.argv[1]), int(sys.argv[2])
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    read, write = os.pipe()
    if os.fork() == 0:
        serve(second, size, count, None, write)
    if os.fork() == 0:
        onward = socket.create_connection(second.getsockname())
        onward.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serve(first, size, count, onward, write)
    client = socket.create_connection(first.getsockname())
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    value = bytes(size)
    for _ in range(count):
        client.sendall(value)
        receive(client, bytearray(1))
    os.close(write)
    with os.fdopen(read) as lines:
        spent = sum(float(line) for line in lines)
    print(f"{spent / count * 1e6:.1f}")


main()
