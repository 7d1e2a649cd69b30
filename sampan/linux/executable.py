"""Let go of the executable file that the calling process runs from.

``/proc/PID/exe`` leads to that file, past all namespaces and mounts.  A process that enters a
container must not be such a way to a file of the host (CVE-2019-5736): a program inside could have
it executed (``#!/proc/self/exe``) and write to it afterwards.  Starting again from a sealed copy
costs a second start of the interpreter; here the running process exchanges instead each mapping of
the file for anonymous memory with the same content, and names an empty, sealed file as its
executable (``PR_SET_MM_MAP`` of prctl(2), which the kernel grants once nothing of the old file is
mapped).
"""

from __future__ import annotations

import ctypes
import os

from sampan.linux import files
from sampan.linux.memfd import sealed_bytes
from sampan.linux.process import prctl
from sampan.linux.syscalls import MACHINE, error, function, pointer_function

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE_ANONYMOUS = 0x22
_FAILED = ctypes.c_void_p(-1).value
_PROTECTIONS = {ord("r"): _READ, ord("w"): _WRITE, ord("x"): _EXECUTE}

_size = ctypes.c_size_t
_mmap = pointer_function(
    "mmap", ctypes.c_void_p, _size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)
_mprotect = function("mprotect", ctypes.c_void_p, _size, ctypes.c_int)
_sbrk = pointer_function("sbrk", ctypes.c_long)
_munmap = function("munmap", ctypes.c_void_p, _size)

# Called with the address of a table and the number of its rows (from, to, size, protection).  The
# copy of what can be written must be in its place before anything is written again, so no function
# of the interpreter's can do this.
_EXCHANGE = bytes.fromhex(
    "53 55"  # push rbx; push rbp
    "48 89 fb 48 89 f5 fc"  # mov rbx, rdi; mov rbp, rsi; cld
    # next: copy
    "48 8b 33 48 8b 7b 08 48 8b 4b 10"  # mov rsi, [rbx]; mov rdi, [rbx+8]; mov rcx, [rbx+16]
    "f3 a4"  # rep movsb
    # mprotect(to, size, protection)
    "48 8b 7b 08 48 8b 73 10 48 8b 53 18"  # mov rdi, [rbx+8]; mov rsi, [rbx+16]; mov rdx, [rbx+24]
    "b8 0a 00 00 00 0f 05"  # mov eax, 10; syscall
    "48 85 c0 75 2b"  # test rax, rax; jnz end
    # mremap(to, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, from)
    "48 8b 7b 08 48 8b 73 10 48 89 f2"  # mov rdi, [rbx+8]; mov rsi, [rbx+16]; mov rdx, rsi
    "41 ba 03 00 00 00 4c 8b 03"  # mov r10d, 3; mov r8, [rbx]
    "b8 19 00 00 00 0f 05"  # mov eax, 25; syscall
    "48 3b 03 75 0b"  # cmp rax, [rbx]; jne end
    "31 c0 48 83 c3 20"  # xor eax, eax; add rbx, 32
    "48 ff cd 75 b0"  # dec rbp; jnz next
    "5d 5b c3"  # end: pop rbp; pop rbx; ret
)


def leave() -> bool:
    """Whether the process now runs from memory only; if not, nothing has changed for it.

    Only where the machine is x86-64, and with ``CAP_SYS_ADMIN`` or ``CAP_CHECKPOINT_RESTORE``.
    """
    if MACHINE != "x86_64":
        return False
    try:
        segments = _segments(_first_mappings(), os.readlink(b"/proc/self/exe"))
        _exchange(segments)
        empty = sealed_bytes("executable", b"")
        try:
            os.fchmod(empty, 0o500)
            _name(empty)
        finally:
            os.close(empty)
    except OSError:
        return False
    return True


def _first_mappings() -> bytes:
    """The beginning of the list of mappings, where those of the executable are.  Were one of it
    elsewhere, the kernel would refuse to name another file."""
    fd = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _segments(maps: bytes, path: bytes) -> list[tuple[int, int, int]]:
    """(address, size, protection) of each mapping of the file."""
    found = []
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5] == path:
            first, _, last = fields[0].partition(b"-")
            start = int(first, 16)
            bits = sum(_PROTECTIONS.get(letter, 0) for letter in fields[1])
            found.append((start, int(last, 16) - start, bits))
    return found


def _exchange(segments: list[tuple[int, int, int]]) -> None:
    copies = _memory(sum(size for _, size, _ in segments))
    rows = (ctypes.c_ulong * 4 * len(segments))()
    for number, (start, size, protection) in enumerate(segments):
        rows[number] = (ctypes.c_ulong * 4)(start, copies, size, protection)
        copies += size
    page = os.sysconf("SC_PAGE_SIZE")
    code = _memory(page)
    try:
        ctypes.memmove(code, _EXCHANGE, len(_EXCHANGE))
        if _mprotect(code, page, _READ | _EXECUTE) < 0:
            raise error("mprotect")
        call = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong)(code)
        if result := call(ctypes.addressof(rows), len(segments)):
            raise OSError(-result, f"exchange of the executable: {os.strerror(-result)}")
    finally:
        _munmap(code, page)


class _Map(ctypes.Structure):
    """The kernel's ``struct prctl_mm_map``."""

    _fields_ = (
        ("addresses", ctypes.c_uint64 * 11),
        ("auxv", ctypes.c_void_p),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    )


def _name(fd: int) -> None:
    """Make the file the executable; all else stays as it is."""
    stat = files.read("/proc/self/stat").rpartition(b") ")[2].split()
    # As numbered in proc(5), of which the first two are cut off: code, data, brk, stack, arguments.
    known = [int(stat[field - 3]) for field in (26, 27, 45, 46, 47, 28, 48, 49, 50, 51)]
    known.insert(5, _sbrk(0) or 0)
    asked = _Map((ctypes.c_uint64 * 11)(*known), None, 0, fd)
    prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.addressof(asked), ctypes.sizeof(asked))


def _memory(size: int) -> int:
    address = _mmap(None, size, _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    if address is None or address == _FAILED:
        raise error("mmap")
    return address
