"""The system calls that a sandboxed program may not make, as a filter program for the kernel.

In: the machine's architecture. Out: bytes of classic BPF (seccomp(2), `struct sock_filter`: u16 code, u8 jt, u8 jf,
u32 k), which `jail.py` installs just before a program starts. The namespaces are the wall and this is the moat: it
denies what reaches kernel code that no solution of a programming task needs, what looks into other processes, what makes
new namespaces (whose root could mount), and memory that no limit counts. A call that is denied answers EPERM; calls newer
than this list answer ENOSYS, as on an older kernel.
"""

from __future__ import annotations

import errno
import struct

_NEWEST = 462  # last call of Linux 6.12 (mseal, 6.10); numbers from 424 on are the same everywhere

_COMMON = {  # name -> number, equal on all architectures
    'pidfd_send_signal': 424,
    'io_uring_setup': 425,
    'io_uring_enter': 426,
    'io_uring_register': 427,
    'open_tree': 428,
    'move_mount': 429,
    'fsopen': 430,
    'fsconfig': 431,
    'fsmount': 432,
    'fspick': 433,
    'pidfd_getfd': 438,
    'process_madvise': 440,
    'mount_setattr': 442,
    'quotactl_fd': 443,
    'memfd_secret': 447,
}
_DENIED = {  # name -> (x86_64, aarch64); -1: the architecture has no such call
    # other processes
    'ptrace': (101, 117),
    'process_vm_readv': (310, 270),
    'process_vm_writev': (311, 271),
    'kcmp': (312, 272),
    'move_pages': (279, 239),
    'migrate_pages': (256, 238),
    # mounts and namespaces
    'mount': (165, 40),
    'umount2': (166, 39),
    'pivot_root': (155, 41),
    'chroot': (161, 51),
    'unshare': (272, 97),
    'setns': (308, 268),
    'name_to_handle_at': (303, 264),
    'open_by_handle_at': (304, 265),
    # memory beside the address space and the folders with a size
    'memfd_create': (319, 279),
    'shmget': (29, 194),
    'semget': (64, 190),
    'msgget': (68, 186),
    'mq_open': (240, 180),
    'add_key': (248, 217),
    'request_key': (249, 218),
    'keyctl': (250, 219),
    # parts of the kernel that break often, and the machine itself
    'bpf': (321, 280),
    'perf_event_open': (298, 241),
    'userfaultfd': (323, 282),
    'fanotify_init': (300, 262),
    'vmsplice': (278, 75),
    'mbind': (237, 235),
    'set_mempolicy': (238, 237),
    'personality': (135, 92),
    'quotactl': (179, 60),
    'acct': (163, 89),
    'swapon': (167, 224),
    'swapoff': (168, 225),
    'reboot': (169, 142),
    'kexec_load': (246, 104),
    'kexec_file_load': (320, 294),
    'init_module': (175, 105),
    'finit_module': (313, 273),
    'delete_module': (176, 106),
    'settimeofday': (164, 170),
    'clock_settime': (227, 112),
    'clock_adjtime': (305, 266),
    'adjtimex': (159, 171),
    'sethostname': (170, 161),
    'setdomainname': (171, 162),
    'syslog': (103, 116),
    'vhangup': (153, 58),
    'iopl': (172, -1),
    'ioperm': (173, -1),
    'modify_ldt': (154, -1),
}
_BY_ARGUMENT = {'clone': (56, 220), 'clone3': (435, 435), 'socket': (41, 198), 'prlimit64': (302, 261)}

ARCHITECTURES = {'x86_64': (0xC000003E, 0), 'aarch64': (0xC00000B7, 1)}  # AUDIT_ARCH of linux/audit.h, column above

_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_AF_UNIX = 1

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST = 0, 4, 16  # offsets in struct seccomp_data; the first argument's low half


def program(machine: str) -> bytes:
    """The filter for a machine (as `platform.machine()` names it).

    Raises:
      ValueError: the architecture is not listed.
    """
    if machine not in ARCHITECTURES:
        raise ValueError(f'no system-call filter for {machine!r}, only for {sorted(ARCHITECTURES)}')
    audit, column = ARCHITECTURES[machine]
    deny, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]

    def when(test: int, value: int, then: list[tuple[int, int, int, int]]) -> None:
        """Runs `then`, which must return, where the test holds."""
        code.extend([(test, 0, len(then), value), *then])

    when(_AT_LEAST, _NEWEST + 1, [(_RETURN, 0, 0, absent)])
    number = {name: columns[column] for name, columns in _BY_ARGUMENT.items()}
    first = (_LOAD, 0, 0, _FIRST)
    # clone3's flags are behind a pointer, which no filter can follow: without it the C library falls back to clone
    when(_EQUAL, number['clone3'], [(_RETURN, 0, 0, absent)])
    when(
        _EQUAL,
        number['clone'],
        [first, (_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, deny), (_RETURN, 0, 0, _ALLOW)],
    )
    # only between processes of the sandbox: other families (vsock among them) are not all cut by a network namespace
    when(_EQUAL, number['socket'], [first, (_EQUAL, 1, 0, _AF_UNIX), (_RETURN, 0, 0, deny), (_RETURN, 0, 0, _ALLOW)])
    # a process sets its own limits only
    when(_EQUAL, number['prlimit64'], [first, (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, deny), (_RETURN, 0, 0, _ALLOW)])
    for denied in [*_COMMON.values(), *(columns[column] for columns in _DENIED.values())]:
        if denied >= 0:
            when(_EQUAL, denied, [(_RETURN, 0, 0, deny)])
    code.append((_RETURN, 0, 0, _ALLOW))
    return b''.join(struct.pack('=HBBI', *line) for line in code)
