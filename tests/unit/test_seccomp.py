"""The filter of system calls denies what it says, on each machine, and nothing else."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.server.images import _seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
DEEDS = """
import ctypes, errno, os, socket, sys, threading
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b"x", ("127.0.0.1", 9))
def unix(): socket.socket(socket.AF_UNIX).close()
def pair(): [s.close() for s in socket.socketpair()]
def child():
    if os.fork() == 0: os._exit(0)
def program(): os.spawnv(os.P_WAIT, "/bin/true", ["true"])
def thread():
    t = threading.Thread(target=lambda: None); t.start(); t.join()
def needed():
    a, b = kept
    a.send(b"x"); assert b.recv(4) == b"x"
    open("/proc/self/statm").close(); bytearray(2**25); os.getrusage if 0 else os.times()
kept = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
from lookalike.server.images import _seccomp
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1] == "filtered":
    libc.prctl(38, 1, 0, 0, 0)
    print(_seccomp.install(libc))
elif sys.argv[1] == "elsewhere":
    print(_seccomp.install(libc, "riscv64"))
for deed in (udp, unix, pair, child, program, thread, needed):
    try:
        deed(); print(deed.__name__, "done")
    except (OSError, RuntimeError) as error:
        print(deed.__name__, errno.errorcode.get(getattr(error, "errno", 0), "refused"))
"""


def deeds(how: str) -> list[str]:
    """Try in a process of its own what a filter is to deny; return what became of each."""
    done = subprocess.run(
        [sys.executable, "-c", DEEDS, how], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split("\n")[:-1]


WITHOUT = [
    f"{name} done" for name in ["udp", "unix", "pair", "child", "program", "thread", "needed"]
]


def test_without_the_filter_all_of_it_can_be_done() -> None:
    assert deeds("free") == WITHOUT


@pytest.mark.skipif(os.uname().machine not in _seccomp.MACHINES, reason="has no filter")
def test_with_the_filter_only_what_decoding_needs_can_be_done() -> None:
    assert deeds("filtered") == [
        "True",
        "udp EPERM",
        "unix EPERM",
        "pair EPERM",
        "child EAGAIN",
        "program EAGAIN",
        "thread refused",
        "needed done",
    ]


def test_on_a_machine_that_is_not_known_nothing_changes() -> None:
    assert deeds("elsewhere") == ["False", *WITHOUT]


def verdict(program: bytes, audit: int, number: int) -> int:
    """Run a filter as the kernel would; return what it says of a call."""
    data = struct.pack("=II", number, audit)
    loaded = at = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return int(value)
        else:
            true = loaded == value if code == 0x15 else loaded >= value
            at += if_true if true else if_false


@pytest.mark.parametrize("name", _seccomp.MACHINES)
def test_the_filter_denies_the_calls_of_its_table_and_no_others(name: str) -> None:
    machine = _seccomp.MACHINES[name]
    program = _seccomp.program(machine)
    for denied, error in ((machine.denied, errno.EPERM), (machine.spawning, errno.EAGAIN)):
        for number in denied.values():
            assert verdict(program, machine.audit, number) == 0x00050000 | error
    others = set(range(600)) - {*machine.denied.values(), *machine.spawning.values()}
    assert {verdict(program, machine.audit, number) for number in others} == {ALLOW}
    assert verdict(program, machine.audit ^ 1, 0) == KILL, "another table of calls"
    assert verdict(program, machine.audit, 0x40000000 + 41) == KILL, "x32"


HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


@pytest.mark.parametrize("name", _seccomp.MACHINES)
def test_the_numbers_are_those_of_the_kernels_headers(name: str) -> None:
    header = next((Path(path) for path in HEADERS[name] if Path(path).exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not here")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    machine = _seccomp.MACHINES[name]
    for call, number in {**machine.denied, **machine.spawning}.items():
        assert int(known[call]) == number, call


def test_a_kernel_without_filters_is_told_from_one_with() -> None:
    class Libc:
        def prctl(self, *_: object) -> int:
            return -1

    assert _seccomp.install(Libc()) is False  # type: ignore[arg-type]
    assert ctypes.sizeof(_seccomp._Program) == 16
