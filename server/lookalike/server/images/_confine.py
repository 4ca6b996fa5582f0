"""What a decoding process gives up before it sees a stranger's bytes.

Everything here is the kernel's own and needs no rights. Where a kernel lacks a part
the others still hold; limits on resources are everywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from typing import Final

from lookalike.server.images import _seccomp

# include/uapi/linux/prctl.h, landlock.h, sched.h; the numbers of Landlock's calls are
# the same on every architecture.
_PR_SET_NO_NEW_PRIVS: Final = 38
_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_CLONE_NEWNET: Final = 0x40000000
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
"""Kinds of access to files that each version knows, as bits from the lowest; then 16."""

_DESCRIPTORS: Final = 16
_NICE: Final = 2
"""A little behind the server's own threads, which answer those who wait."""
_OOM_SCORE: Final = 900
"""Where memory is short the kernel ends this process, not the server."""


def confine(memory_bytes: int) -> list[str]:
    """Give up files, network, other processes and all but `memory_bytes` more of memory.

    For the process that calls, for good; it must have one thread. What is open stays open.
    Returns what of it the kernel has put in force beyond limits on resources: "landlock/4"
    (its version), "namespace" (a network of its own, for root only), "seccomp".
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(str(_OOM_SCORE))
    with open("/proc/self/statm") as memory:
        occupied = int(memory.read().split()[0]) * resource.getpagesize()
    os.nice(_NICE)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    in_force = []
    if libc.unshare(_CLONE_NEWNET) == 0:  # for root only; others have the rules below
        in_force.append("namespace")
    if version := _lock(libc):
        in_force.append(f"landlock/{version}")
    for limit, most in (
        (resource.RLIMIT_AS, occupied + memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (most, most))
    if _seccomp.install(libc):  # the last: it denies calls that are made above
        in_force.append("seccomp")
    return in_force


def _lock(libc: ctypes.CDLL) -> int:
    """Deny every file, TCP port and signal to others, as far as the kernel has Landlock.

    Returns the version in force, 0 for none.
    """
    call = libc.syscall
    call.restype = ctypes.c_long
    number, word = ctypes.c_long, ctypes.c_size_t
    version = call(number(_CREATE_RULESET), None, word(0), word(_ASK_VERSION))
    if version < 1:
        return 0
    files = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    ports = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = struct.pack("=QQQ", files, ports, scopes)[:size]
    ruleset = call(number(_CREATE_RULESET), rules, word(size), word(0))
    if ruleset < 0:
        return 0
    done = call(number(_RESTRICT_SELF), number(ruleset), word(0))
    os.close(ruleset)
    return int(version) if done == 0 else 0
