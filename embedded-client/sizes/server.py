"""The other end of the UART while the table is measured: one client, QoS 1, then "stop".

usage: server.py PORT_FILE   (MQTT 3.1.1 and 5.0; ends with its client)
"""

import os
import socket
import sys


def packet(stream):
    first = stream.read(1)
    if not first:
        return None, b""
    length = shift = 0
    while True:
        byte = stream.read(1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return first[0], stream.read(length)


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(str(listener.getsockname()[1]))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    link, _ = listener.accept()
    link.settimeout(30)
    stream = link.makefile("rb")
    v5 = subscribed = published = False
    while True:
        first, body = packet(stream)
        if first is None:
            return
        kind = first >> 4
        if kind == 1:
            v5 = body[6] == 5
            link.sendall(b"\x20\x03\x00\x00\x00" if v5 else b"\x20\x02\x00\x00")
        elif kind == 8:
            link.sendall((b"\x90\x04" + body[:2] + b"\x00\x01") if v5 else (b"\x90\x03" + body[:2] + b"\x01"))
            subscribed = True
        elif kind == 3:
            at = 2 + int.from_bytes(body[:2], "big")
            link.sendall(b"\x40\x02" + body[at:at + 2])
            published = True
        elif kind == 12:
            link.sendall(b"\xd0\x00")
        if subscribed and published:
            subscribed = False
            topic = b"\x00\x08s/17/cmd"
            rest = topic + b"\x00\x07" + (b"\x00" if v5 else b"") + b"stop"
            link.sendall(bytes([0x32, len(rest)]) + rest)


main()
