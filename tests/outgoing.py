"""Record what the processes of a test send to other machines, and let nothing out.

No root and no program is needed. On Linux 5.6 or newer a seccomp filter hands the system calls that can reach another
machine to this process, whichever library or child process makes them ("user notification", seccomp_unotify(2)). Two
servers of ours say what was asked for: a proxy that the environment names, and a DNS server that knows no name. On
other systems there is only the proxy, which native code may ignore; `NATIVE` says whether the filter is there.

A TCP connection is refused and recorded. A UDP socket is connected to our DNS server and recorded once it sends: many
programs connect one to learn their own address, for which nothing is sent.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import os
import platform
import select
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

# Of a processor: its name in a filter, the number of seccomp, and those of connect, sendmsg, sendmmsg and sendto.
PROCESSORS = {
    "x86_64": (0xC000003E, 317, (42, 46, 307, 44)),
    "aarch64": (0xC00000B7, 277, (203, 211, 269, 206)),
}
IO_URING_SETUP, PIDFD_GETFD = 425, 438  # on every processor
SET_NO_NEW_PRIVILEGES, SET_FILTER, WITH_LISTENER = 38, 1, 8  # of linux/prctl.h and linux/seccomp.h
RECEIVE, ANSWER, CONTINUE = 0xC0502100, 0xC0182101, 1
CALL = struct.Struct("=QIIiIQ6Q")  # seccomp_notif: id, thread, flags, number, processor, instruction, six arguments
SENDS_WITHOUT_ADDRESS = (0, 1, 16)  # families that stay on the machine: AF_UNSPEC, AF_UNIX, AF_NETLINK
RESOLVER = b"/run/systemd/resolve"  # a Unix socket that looks names up on behalf of a program
DNS = 53


def _filter() -> bytes:
    """The filter as the kernel reads it: see `man 2 seccomp` for the layout of what it looks at."""
    name, _, (connect, sendmsg, sendmmsg, sendto) = PROCESSORS[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06
    next_, hand, refuse, allow = 0, 10, 11, 12
    lines = [
        (load, 4, next_, next_),  # the processor
        (equal, name, next_, allow),
        (load, 0, next_, next_),  # the number of the call
        (equal, connect, hand, next_),
        (equal, sendmsg, hand, next_),
        (equal, sendmmsg, hand, next_),
        (equal, IO_URING_SETUP, refuse, next_),  # its operations pass by every filter
        (equal, sendto, next_, allow),
        (load, 16 + 4 * 8, next_, next_),  # where its fifth argument, the address, lies: a connected socket has none
        (equal, 0, allow, hand),
        (give, 0x7FC00000, next_, next_),  # hand
        (give, 0x00050000 | errno.ENOSYS, next_, next_),  # refuse
        (give, 0x7FFF0000, next_, next_),  # allow
    ]
    jumps = [[0 if target == next_ else target - i - 1 for target in line[2:]] for i, line in enumerate(lines)]
    return b"".join(struct.pack("=HBBI", line[0], *jump, line[1]) for line, jump in zip(lines, jumps, strict=True))


def _listen() -> int:
    """Filter the calls of this thread and of all that it starts; returns the descriptor that they are read from.

    Raises:
        OSError: this system has no such filter.
    """
    if sys.platform != "linux" or platform.machine() not in PROCESSORS:
        raise OSError(errno.ENOSYS, "no seccomp")
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(_filter())
    program = struct.pack("@HP", len(_filter()) // 8, ctypes.addressof(code))
    libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    number = PROCESSORS[platform.machine()][1]
    descriptor: int = libc.syscall(number, SET_FILTER, WITH_LISTENER, program)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "no filter with user notification")
    return descriptor


def _in_thread(work: Any) -> Any:
    """What `work` returns or raises, called in a thread of its own: a filter stays for as long as its thread."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = work()
        except OSError as error:
            outcome["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def _is_native() -> bool:
    try:
        os.close(_in_thread(_listen))
    except OSError:
        return False
    return True


NATIVE = _is_native()


class Recorder:
    """Starts processes and keeps in `records` what they tried to send to other machines, a line each."""

    def __init__(self) -> None:
        self.records: list[str] = []
        self._own = {entry.address.partition("%")[0] for card in psutil.net_if_addrs().values() for entry in card}
        self._senders: dict[int, str] = {}  # port of a UDP socket that was led to our DNS server -> whose it is
        self._stop_read, self._stop_write = os.pipe()
        self._threads: list[threading.Thread] = []
        self._dns = {
            family: _bound(family, address)
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
            if address in self._own
        }
        self._proxy = _proxy(self.records)
        for serve in (self._proxy.serve_forever, self._answer_dns):
            self._run(serve)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: Any) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        os.close(self._stop_write)
        for thread in self._threads:
            thread.join()
        os.close(self._stop_read)
        for server in self._dns.values():
            server.close()

    def start(self, command: Sequence[str], env: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
        """Start a process that is recorded, as are all that it starts."""
        address = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        proxies = {
            name: address for kind in ("http", "https", "all") for name in (f"{kind}_proxy", f"{kind}_PROXY".upper())
        }
        here = dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1")
        options |= {"env": {**env, **proxies, **here}, "text": True}
        if not NATIVE:
            return subprocess.Popen(command, **options)

        def begin() -> tuple[int, subprocess.Popen[str]]:
            descriptor = _listen()
            return descriptor, subprocess.Popen(command, **options)

        descriptor, process = _in_thread(begin)
        self._run(lambda: self._supervise(descriptor))
        return process  # type: ignore[no-any-return]

    def _run(self, work: Any) -> None:
        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def _supervise(self, descriptor: int) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while all(number == descriptor and event & select.POLLIN for number, event in poll.poll()):
            call = bytearray(CALL.size)
            try:
                fcntl.ioctl(descriptor, RECEIVE, call)
            except OSError:  # the process has ended
                continue
            identity, thread, _, number, _, _, *arguments = CALL.unpack(call)
            try:
                refusal = self._judge(thread, number, arguments)
            except (OSError, ValueError):  # it has ended, or what it asks for is nothing that the kernel takes
                refusal = None
            value = struct.pack("=QqiI", identity, 0, *((0, CONTINUE) if refusal is None else (-refusal, 0)))
            try:
                fcntl.ioctl(descriptor, ANSWER, value)
            except OSError:
                continue
        os.close(descriptor)

    def _judge(self, thread: int, number: int, arguments: Sequence[int]) -> int | None:
        """The error that a call fails with; 0 if it was done for the caller, None if the kernel may do it."""
        connect, sendmsg, sendmmsg, _ = PROCESSORS[platform.machine()][2]
        if number in (sendmsg, sendmmsg):
            messages = range(arguments[2]) if number == sendmmsg else range(1)
            headers = [struct.unpack("=QI", _memory(thread, arguments[1] + 64 * i, 12)) for i in messages]
        else:
            at, length = arguments[1:3] if number == connect else arguments[4:6]
            headers = [(at, length)]
        for at, length in headers:
            address = _memory(thread, at, min(length, 128)) if at and length else b""
            target = self._outside(address)
            if target is None:
                continue
            who = f"{_name(thread)}: {target}"
            if number == connect and self._lead_to_dns(thread, arguments[0], who):
                return 0
            self.records.append(who)
            return errno.ENETUNREACH
        return None

    def _lead_to_dns(self, thread: int, number: int, who: str) -> bool:
        """Connect the socket that a process knows by this number to our DNS server, if it is one for datagrams."""
        try:
            with _socket_of(thread, number) as same:
                if same.type != socket.SOCK_DGRAM:
                    return False
                same.connect(self._dns[same.family].getsockname()[:2])
                self._senders[same.getsockname()[1]] = who
        except (OSError, KeyError):
            return False
        return True

    def _outside(self, address: bytes) -> str | None:
        """The address as people write it, None if it is one of this machine."""
        if len(address) < 2:
            return None
        family = int.from_bytes(address[:2], sys.byteorder)
        if family == socket.AF_UNIX and RESOLVER in address:
            return "the resolver of systemd"
        if family in SENDS_WITHOUT_ADDRESS:
            return None
        if family not in (socket.AF_INET, socket.AF_INET6):
            return f"an address of family {family}"
        port = int.from_bytes(address[2:4], "big")
        ip = ipaddress.ip_address(address[4:8] if family == socket.AF_INET else address[8:24])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        here = ip.is_loopback or ip.is_unspecified or str(ip) in self._own
        return None if here and port != DNS else f"{ip} port {port}"

    def _answer_dns(self) -> None:
        poll = select.poll()
        servers = {server.fileno(): server for server in self._dns.values()}
        for number in (*servers, self._stop_read):
            poll.register(number, select.POLLIN)
        while (ready := {number for number, _ in poll.poll()}) != {self._stop_read}:  # what has arrived is read first
            for number in ready - {self._stop_read}:
                query, sender = servers[number].recvfrom(65535)
                at, labels = 12, []
                while at < len(query) and query[at]:
                    labels.append(query[at + 1 : at + 1 + query[at]].decode(errors="replace"))
                    at += 1 + query[at]
                who = self._senders.get(sender[1], "a process")
                self.records.append(f"{who}: {'.'.join(labels) if who.endswith(f'port {DNS}') else len(query)}")
                header = query[:2] + b"\x81\x83" + query[4:6] + bytes(6)  # NXDOMAIN
                servers[number].sendto(header + query[12 : at + 5], sender)


def _bound(family: socket.AddressFamily, address: str) -> socket.socket:
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((address, 0))
    return server


def _proxy(records: list[str]) -> socketserver.ThreadingTCPServer:
    """A proxy that writes down the first line of every request, and refuses it."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            records.append(f"the proxy was asked: {self.rfile.readline().decode(errors='replace').strip()}")
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    return socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)


def _memory(thread: int, at: int, length: int) -> bytes:
    with Path(f"/proc/{thread}/mem").open("rb", 0) as memory:
        memory.seek(at)
        return memory.read(length)


def _socket_of(thread: int, number: int) -> socket.socket:
    """A second handle of the socket that a process knows by this number."""
    status = Path(f"/proc/{thread}/status").read_text()
    process = os.pidfd_open(int(status.split("Tgid:")[1].split()[0]))
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "no handle of the socket")
    return socket.socket(fileno=copy)


def _name(thread: int) -> str:
    """The command of a process, and the name of its thread."""
    command = Path(f"/proc/{thread}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return f"{command[:120].strip()} ({Path(f'/proc/{thread}/comm').read_text().strip()})"
