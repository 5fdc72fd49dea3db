#!/usr/bin/python3
"""kpptp.py client LOCAL REMOTE PLUGIN [pppd options] | kpptp.py server LOCAL PLUGIN [pppd options]

One PPTP call whose data path is the kernel's (pptp.ko, ppp_generic, ppp_mppe): the control connection here, the negotiation by the
stock pppd with PLUGIN (kpptp.so). Ends with pppd, with pppd's status. Needs the pptp module and /dev/ppp."""
import ctypes
import os
import random
import select
import signal
import socket
import struct
import sys

PORT, COOKIE = 1723, 0x1A2B3C4D
SCCRQ, SCCRP, STOP_RQ, ECHO_RQ, ECHO_RP, OCRQ, OCRP, CCRQ, CDN = 1, 2, 3, 5, 6, 7, 8, 12, 13
AF_PPPOX, PX_PROTO_PPTP = 24, 2
SPEED, WINDOW = 100_000_000, 64
START = struct.pack("!HBBIIHH64s64s", 0x100, 1, 0, 3, 3, 0, 1, b"kpptp", b"linux")  # SCCRQ and SCCRP have one shape
libc = ctypes.CDLL(None, use_errno=True)


def send(conn, kind, body):
    conn.sendall(struct.pack("!HHIHH", 12 + len(body), 1, COOKIE, kind, 0) + body)


def receive(conn):
    head = conn.recv(12, socket.MSG_WAITALL)
    if len(head) < 12:
        raise EOFError
    length, _, _, kind, _ = struct.unpack("!HHIHH", head)
    return kind, conn.recv(length - 12, socket.MSG_WAITALL)


def kernel_socket(local, local_call, remote, remote_call):
    """A connected PPTP socket; Python knows no struct sockaddr_pppox, so libc is called with one made by hand."""
    s = socket.socket(AF_PPPOX, socket.SOCK_STREAM, PX_PROTO_PPTP)
    for name, call, (ip, call_id) in (("bind", libc.bind, (local, local_call)), ("connect", libc.connect, (remote, remote_call))):
        sockaddr = struct.pack("<HIHH", AF_PPPOX, PX_PROTO_PPTP, call_id, 0) + socket.inet_aton(ip)
        if call(s.fileno(), sockaddr.ljust(30, b"\0"), 30) < 0:
            sys.exit("kpptp: %s: %s" % (name, os.strerror(ctypes.get_errno())))
    os.set_inheritable(s.fileno(), True)
    return s


def accept(local, call):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((local, PORT))
    listener.listen()
    conn, (peer, _) = listener.accept()
    listener.close()
    while True:
        kind, body = receive(conn)
        if kind == SCCRQ:
            send(conn, SCCRP, START)
        elif kind == OCRQ:
            peer_call = struct.unpack("!H", body[:2])[0]
            k = kernel_socket(local, call, peer, peer_call)
            send(conn, OCRP, struct.pack("!HHBBHIHHI", call, peer_call, 1, 0, 0, SPEED, WINDOW, 0, 0))
            return conn, k


def dial(local, peer, call):
    conn = socket.create_connection((peer, PORT), 10, (local, 0))
    conn.settimeout(None)
    send(conn, SCCRQ, START)
    receive(conn)
    send(conn, OCRQ, struct.pack("!HHIIIIHHHH64s64s", call, 1, 300, SPEED, 3, 3, WINDOW, 0, 0, 0, b"", b""))
    kind, body = receive(conn)
    while kind != OCRP:
        kind, body = receive(conn)
    peer_call, _, result = struct.unpack("!HHB", body[:5])
    if result != 1:
        sys.exit("kpptp: call refused, result %d" % result)
    return conn, kernel_socket(local, call, peer, peer_call)


def main():
    mode, args, call = sys.argv[1], sys.argv[2:], random.randrange(1, 65000)
    if mode == "server":
        (local, plugin), options = args[:2], args[2:]
        conn, k = accept(local, call)
        goodbye = CDN, struct.pack("!HBBHH128s", call, 3, 0, 0, 0, b"")
    else:
        (local, peer, plugin), options = args[:3], args[3:]
        conn, k = dial(local, peer, call)
        goodbye = CCRQ, struct.pack("!HH", call, 0)
    pppd = os.fork()
    if pppd == 0:
        conn.close()
        os.execvp("pppd", ["pppd", "nodetach", "plugin", plugin, "kpptp_fd", str(k.fileno()), "nodefaultroute"] + options)
    k.close()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pppd, signal.SIGTERM))
    status, watch = None, [conn]
    while status is None:
        if select.select(watch, [], [], 0.2)[0]:
            try:
                kind, body = receive(conn)
            except (EOFError, OSError):
                kind, watch = CDN, []
            if kind == ECHO_RQ:
                send(conn, ECHO_RP, body[:4] + struct.pack("!BBH", 1, 0, 0))
            elif kind in (STOP_RQ, CCRQ, CDN):
                os.kill(pppd, signal.SIGTERM)
        pid, result = os.waitpid(pppd, os.WNOHANG)
        if pid:
            status = result
    if watch:
        try:
            send(conn, *goodbye)
        except OSError:
            pass
    sys.exit(max(os.waitstatus_to_exitcode(status), 0))


if __name__ == "__main__":
    main()
