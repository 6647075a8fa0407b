"""A name server that knows one name, app.internal: 127.0.0.1."""

import socket

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
while True:
    query, client = server.recvfrom(512)
    end = query.index(b"\0", 12)
    asks_for_it = query[12 : end + 1] == b"\3app\10internal\0"
    question, wants_ipv4 = query[12 : end + 5], query[end + 1 : end + 3] == b"\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if asks_for_it and wants_ipv4 else b""
    flags = b"\x81\x80" if asks_for_it else b"\x81\x83"
    server.sendto(query[:2] + flags + b"\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0\0\0\0" + question + answer, client)
