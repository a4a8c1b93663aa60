"""Run a command as deploy/augu-api.service confines the service, as far as that is possible without systemd.

`python tests/confined.py UNIT COMMAND...` applies what the unit says of system calls, address families,
privileges and modes, and then becomes the command. It needs libseccomp, as systemd does.
"""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

ALLOW, ERRNO = 0x7FFF0000, 0x00050000  # SCMP_ACT_ALLOW and SCMP_ACT_ERRNO of seccomp.h
EQUAL_TO = 4  # SCMP_CMP_EQ
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
PR_SET_NO_NEW_PRIVS = 38


class Comparison(ctypes.Structure):
    """A comparison of an argument of a call: struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("two", ctypes.c_uint64),
    )


def directives(unit: Path) -> dict[str, list[str]]:
    """The values of each directive."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def calls(group: str) -> set[str]:
    """The system calls of a group such as @system-service, as systemd expands it."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", group], check=True, stdout=subprocess.PIPE, text=True)
    names = [line.strip() for line in listed.stdout.splitlines()[1:] if line.strip() and "#" not in line]
    return {each for name in names for each in (calls(name) if name.startswith("@") else {name})}


def allowed(filters: list[str]) -> set[str]:
    """The system calls that the SystemCallFilter= lines of a unit allow."""
    found: set[str] = set()
    for line in filters:
        names = line.removeprefix("~").split()
        these = {each for name in names for each in (calls(name) if name.startswith("@") else {name})}
        found = found - these if line.startswith("~") else found | these
    return found


class Filter:
    """A filter of system calls; `load` applies it to this process and to all that it starts."""

    def __init__(self, otherwise: int) -> None:
        self.seccomp = ctypes.CDLL("libseccomp.so.2")
        self.seccomp.seccomp_init.restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(self.seccomp.seccomp_init(ctypes.c_uint32(otherwise)))

    def add(self, action: int, name: str, *comparisons: Comparison) -> None:
        """Apply the action to a system call whose arguments compare as given."""
        number = self.seccomp.seccomp_syscall_resolve_name(name.encode())
        array = (Comparison * len(comparisons))(*comparisons)
        failed = self.seccomp.seccomp_rule_add_array(
            self.context, ctypes.c_uint32(action), number, len(comparisons), array
        )
        if failed and number >= 0:
            raise OSError(-failed, f"no rule for {name}")

    def load(self) -> None:
        """Apply the filter."""
        if failed := self.seccomp.seccomp_load(self.context):
            raise OSError(-failed, "seccomp_load")


def confine(unit: Path) -> None:
    """Confine this process as the unit says."""
    said = directives(unit)
    listed = allowed(said["SystemCallFilter"])
    os.umask(int(said["UMask"][0], 8))
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    arguments = Filter(ALLOW)
    families = {FAMILIES[name] for name in said["RestrictAddressFamilies"][0].split()}
    for family in set(range(46)) - families:
        arguments.add(ERRNO | errno.EAFNOSUPPORT, "socket", Comparison(0, EQUAL_TO, family, 0))
    arguments.load()
    listing = Filter(ERRNO | getattr(errno, said["SystemCallErrorNumber"][0]))
    for name in sorted(listed):
        listing.add(ALLOW, name)
    listing.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
