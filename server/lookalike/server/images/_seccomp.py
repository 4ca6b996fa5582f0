"""A filter of system calls: what a process that only decodes never needs.

Landlock's rules name files, TCP ports and signals; the kernel asks nobody's leave for a
UDP packet, a Unix socket, or io_uring, which opens sockets by itself. The filter refuses
the calls that make or reach anything beyond the process, and leaves all others alone, so
that no library is ended for a call that it makes once a year.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

# include/uapi/linux/prctl.h, seccomp.h, bpf_common.h, audit.h
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NUMBER_AT: Final = 0
_MACHINE_AT: Final = 4
_X32: Final = 0x40000000
"""From here on x86-64 has another table of the same calls."""


class _Machine(NamedTuple):
    audit: int
    """What the kernel calls it: AUDIT_ARCH_*."""
    denied: Mapping[str, int]
    """Numbers of calls that fail with EPERM."""
    spawning: Mapping[str, int]
    """Numbers of calls that fail with EAGAIN, as those for threads do under RLIMIT_NPROC."""


_EVERYWHERE: Final = MappingProxyType(
    {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "pidfd_getfd": 438}
)
MACHINES: Final[Mapping[str, _Machine]] = MappingProxyType(
    {
        "x86_64": _Machine(
            0xC000003E,
            MappingProxyType(
                {
                    "socket": 41, "connect": 42, "accept": 43, "sendmsg": 46, "bind": 49,
                    "listen": 50, "socketpair": 53, "execve": 59, "ptrace": 101, "mount": 165,
                    "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
                    "accept4": 288, "perf_event_open": 298, "sendmmsg": 307, "setns": 308,
                    "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321,
                    "execveat": 322, "userfaultfd": 323, **_EVERYWHERE,
                }
            ),
            MappingProxyType({"clone": 56, "fork": 57, "vfork": 58, "clone3": 435}),
        ),
        "aarch64": _Machine(
            0xC00000B7,
            MappingProxyType(
                {
                    "mount": 40, "unshare": 97, "ptrace": 117, "socket": 198, "socketpair": 199,
                    "bind": 200, "listen": 201, "accept": 202, "connect": 203, "sendmsg": 211,
                    "add_key": 217, "request_key": 218, "keyctl": 219, "execve": 221,
                    "perf_event_open": 241, "accept4": 242, "setns": 268, "sendmmsg": 269,
                    "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280,
                    "execveat": 281, "userfaultfd": 282, **_EVERYWHERE,
                }
            ),
            MappingProxyType({"clone": 220, "clone3": 435}),
        ),
    }
)  # fmt: skip


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(libc: ctypes.CDLL, machine: str = "") -> bool:
    """Put the filter in force for this thread and those it makes, for good.

    Returns False, having changed nothing, where the machine is not known or the kernel has
    no filters. The process must have given up new privileges, or be root's.
    """
    known = MACHINES.get(machine or os.uname().machine)
    if known is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    code = program(known)
    wanted = _Program(len(code) // 8, code)
    prctl = libc.prctl
    word = ctypes.c_ulong
    done: int = prctl(_PR_SET_SECCOMP, word(_MODE_FILTER), ctypes.byref(wanted), word(0), word(0))
    return done == 0


def program(machine: _Machine) -> bytes:
    """Return the filter in the kernel's language: an array of struct sock_filter.

    A call by another machine's table, which has other numbers, ends the process.
    """
    rules = [(number, errno.EPERM) for number in machine.denied.values()]
    rules += [(number, errno.EAGAIN) for number in machine.spawning.values()]
    code = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    for number, error in rules:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in code)
