"""Network namespaces, which need root's right to make them."""

import ctypes
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.helpers import missing

CLONE_NEWNET = 0x40000000
ALL, IPV4, IPV6 = 3, 0x0800, 0x86DD  # ETH_P_ALL, ETH_P_IP and ETH_P_IPV6
OF_THE_KERNEL = {0, 2, 58}  # hop-by-hop options, IGMP and ICMPv6: by these, it gets to know the network
OWN = {"198.51.100.2/24": "198.51.100.1", "2001:db8::2/64": "2001:db8::1"}
"""The addresses of an isolated network, each with its router, which does not exist."""
RESOLVER, ELSEWHERE = "203.0.113.53", "203.0.113.1"


def ip(*arguments: str) -> None:
    """Run iproute2."""
    subprocess.run(["ip", *arguments], check=True)


def may_make_networks() -> None:
    """Skip or fail a test where that is not so."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        missing("iproute2, or root's right to make networks,")
    probe = "augu-probe-" + uuid.uuid4().hex
    if subprocess.run(["ip", "netns", "add", probe], stderr=subprocess.DEVNULL, check=False).returncode:
        missing("the right to make networks")
    ip("netns", "del", probe)


@dataclass
class Isolated:
    """A network namespace with a default route and a resolver that lead to nobody: what is sent there is recorded."""

    name: str
    thread: ThreadPoolExecutor
    recorder: socket.socket

    @property
    def within(self) -> tuple[str, ...]:
        """A prefix that runs a command in the namespace."""
        return ("ip", "netns", "exec", self.name)

    def inside(self, function: Callable[..., Any], *args: object, **options: object) -> Any:
        """Call a function in the namespace."""
        return self.thread.submit(function, *args, **options).result()

    def sent(self) -> list[str]:
        """The packets that were sent since the last call: address, protocol and content."""
        found: list[str] = []
        while True:
            try:
                packet, (_, kind, direction, *_) = self.recorder.recvfrom(65535)
            except BlockingIOError:
                return found
            if direction == socket.PACKET_OUTGOING and (told := _told(packet, kind)):
                found.append(told)


def _told(packet: bytes, kind: int) -> str:
    """A packet in words; nothing about one that the kernel sends by itself."""
    if kind == IPV4:
        protocol, address, content = packet[9], packet[16:20], packet[4 * (packet[0] & 15) :]
    elif kind == IPV6:
        protocol, address, content = packet[6], packet[24:40], packet[40:]
    else:
        return ""
    return "" if protocol in OF_THE_KERNEL else f"{ip_address(address)}, protocol {protocol}: {content!r}"


@contextmanager
def isolated() -> Iterator[Isolated]:
    """A network namespace from which nobody can be reached."""
    may_make_networks()
    name = f"augu{uuid.uuid4().hex[:8]}"
    with ExitStack() as closing:
        resolver = Path("/etc/netns", name, "resolv.conf")  # `ip netns exec` puts it in place of /etc/resolv.conf
        closing.callback(shutil.rmtree, resolver.parent, ignore_errors=True)
        resolver.parent.mkdir(parents=True)
        resolver.write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")
        ip("netns", "add", name)
        closing.callback(ip, "netns", "del", name)
        ip("-n", name, "link", "add", "out", "type", "veth", "peer", "name", "nobody")
        for device in ("lo", "out", "nobody"):
            ip("-n", name, "link", "set", device, "up")
        for own, router in OWN.items():
            ip("-n", name, "addr", "add", own, "dev", "out", *(["nodad"] if ":" in own else []))
            ip("-n", name, "neigh", "add", router, "lladdr", "02:00:00:00:00:01", "dev", "out")
            ip("-n", name, "route", "add", "default", "via", router)
        thread = closing.enter_context(ThreadPoolExecutor(1, initializer=_enter, initargs=(name,)))
        yield Isolated(name, thread, closing.enter_context(thread.submit(_recorder).result()))


def _enter(name: str) -> None:
    """Put this thread into a namespace. Python 3.11 has no os.setns."""
    with Path("/run/netns", name).open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _recorder() -> socket.socket:
    recorder = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL))
    recorder.bind(("out", ALL))
    recorder.setblocking(False)
    return recorder
