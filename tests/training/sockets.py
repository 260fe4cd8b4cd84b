"""TCP sockets of this network namespace, by the kernel's socket diagnostics: 0.04 ms a look.

Reading /proc/net/tcp takes 7 ms of the processor, too long for listeners that live for milliseconds. Run as a program
it looks on until its standard input ends, and prints what it saw; it imports nothing that another namespace lacks.
"""

import ipaddress
import json
import socket
import struct
import sys
import threading
import time

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, DUMP = 4, 20, 0x301
TALKS, LISTENS = 1, 10
"""Of linux/netlink.h, sock_diag.h and tcp_states.h."""


def sockets(*states):
    """(state, address as text, inode) of each socket in one of the states."""
    found, wanted = [], sum(1 << state for state in states)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as asked:
        for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, wanted) + bytes(48)
            asked.send(struct.pack("=IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, DUMP, 1, 0) + body)
            more = True
            while more:
                data = asked.recv(2**16)
                while more and data:
                    length, kind = struct.unpack_from("=IH", data)
                    more = kind == SOCK_DIAG_BY_FAMILY  # else it is done, or there is nothing of this family
                    if more:
                        address = str(ipaddress.ip_address(data[24 : 24 + size]))
                        found.append((data[17], address, struct.unpack_from("=I", data, 84)[0]))
                    data = data[-(-length // 4) * 4 :]
    return found


def main():
    """Look on."""
    over, seen = threading.Event(), set()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while not over.is_set():
        seen |= {(state, address) for state, address, _ in sockets(TALKS, LISTENS)}
        time.sleep(0.001)
    print(json.dumps(sorted(seen)))


if __name__ == "__main__":
    main()
