#!/usr/bin/python3
"""echo.py [options] TARGET: ICMP echo requests with random contents, one per size, every byte of the answers compared.

Prints one line of JSON: sent, refused (by our kernel), received (distinct, byte-exact), lost (sizes without an answer), corrupt,
duplicate, disorder (answers that came after the answer to a later request)."""
import argparse
import json
import os
import random
import select
import socket
import struct
import sys
import time

IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0


def sizes(text):
    """"0-8:4,100" is 0, 4, 8, 100."""
    out = []
    for part in text.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        out += range(int(first), int(last or first) + 1, int(step or 1))
    return out


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def run(argv):
    """The result for these command-line arguments."""
    p = argparse.ArgumentParser()
    p.add_argument("target")
    p.add_argument("-s", "--sizes", default="0-1400:100", help="payload sizes in bytes, ranges with steps")
    p.add_argument("-r", "--repeat", type=int, default=1, help="send the list of sizes so many times")
    p.add_argument("-b", "--burst", type=int, default=1, help="requests sent back to back")
    p.add_argument("-i", "--interval", type=float, default=0.005, help="seconds from burst to burst, at least")
    p.add_argument("-n", "--window", type=int, default=4, help="requests without an answer before the next waits; 0: any number")
    p.add_argument("-w", "--wait", type=float, default=2, help="seconds to wait for the last answers")
    p.add_argument("-S", "--source", help="address to send from")
    a = p.parse_args(argv)

    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if a.source:
        s.bind((a.source, 0))
    s.connect((a.target, 0))
    ident = random.randrange(65536)
    plan = sizes(a.sizes) * a.repeat
    if len(plan) > 65536:
        raise ValueError("more requests than sequence numbers")
    body = [os.urandom(n) for n in plan]
    answered, corrupt, duplicate, disorder, highest = set(), 0, 0, 0, -1

    def receive(until, enough):
        """Takes answers until there are enough in all, or it is too late."""
        nonlocal corrupt, duplicate, disorder, highest
        while len(answered) < enough:
            left = until - time.monotonic()
            if not select.select([s], [], [], max(left, 0))[0]:
                if left <= 0:
                    return
                continue
            try:
                packet = s.recv(65536)
            except OSError:   # an ICMP error about an earlier request: that request stays unanswered
                continue
            icmp = packet[(packet[0] & 15) * 4:]
            if len(icmp) < 8 or icmp[0] != 0 or struct.unpack("!H", icmp[4:6])[0] != ident:
                continue
            seq = struct.unpack("!H", icmp[6:8])[0]
            if seq >= len(plan) or icmp[8:] != body[seq] or checksum(icmp):
                corrupt += 1
            elif seq in answered:
                duplicate += 1
            else:
                answered.add(seq)
                disorder += seq < highest
                highest = max(highest, seq)

    due, refused, given_up = time.monotonic(), 0, 0
    for seq, data in enumerate(body):
        if a.window and seq - given_up - len(answered) >= a.window:
            receive(time.monotonic() + a.wait, seq - given_up - a.window + 1)
            given_up = max(given_up, seq - len(answered) - a.window + 1)
        head = struct.pack("!BBHHH", 8, 0, 0, ident, seq)
        try:
            s.send(struct.pack("!BBHHH", 8, 0, checksum(head + data), ident, seq) + data)
        except OSError:
            refused += 1
        if (seq + 1) % a.burst == 0:
            due = max(due + a.interval, time.monotonic())
            receive(due, len(plan))
    receive(time.monotonic() + a.wait, len(plan) - given_up)

    lost = [plan[i] for i in range(len(plan)) if i not in answered]
    s.close()
    return {"sent": len(plan), "refused": refused, "received": len(answered), "lost": lost, "corrupt": corrupt,
            "duplicate": duplicate, "disorder": disorder}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1:])))
