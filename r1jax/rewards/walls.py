"""What a process asks of the kernel to be walled in: namespaces, a root folder, another user, limits, a system-call filter.

Of the standard library alone, for `jail.py`. Everything here changes the calling process, for good, and raises OSError where
the kernel refuses; nothing is done by halves, since the caller gives up at the first error.
"""

import ctypes
import os
import resource
import struct

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
NOSUID, NODEV, BIND, RECURSIVE, PRIVATE = 2, 4, 4096, 16384, 1 << 18
READ_ONLY_ATTR, NOSUID_ATTR, NODEV_ATTR, AT_RECURSIVE = 1, 2, 4, 0x8000
DETACH = 2
PDEATHSIG, SECCOMP, SUBREAPER, NO_NEW_PRIVS = 1, 22, 36, 38
MOUNT_SETATTR = 442  # the same number on all architectures
PIVOT_ROOT, CAPSET = {'x86_64': (155, 126), 'aarch64': (41, 91)}.get(os.uname().machine, (-1, -1))

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A C function that answers -1 on failure. Integers travel as 64 bits: a variadic call would leave the rest undefined."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if getattr(libc, name)(*wide) == -1:
        code = ctypes.get_errno()
        shown = ', '.join(a.decode(errors='replace') if isinstance(a, bytes) else str(a) for a in arguments)
        raise OSError(code, f'{name}({shown}): {os.strerror(code)}')


def unshare(flags):
    libc.unshare.argtypes = [ctypes.c_int]
    call('unshare', ctypes.c_int(flags))


def mount(source, target, kind, flags=0, options=''):
    call('mount', source.encode(), target.encode(), kind.encode(), flags, options.encode())


def restrict(target, attributes, recursive=True):
    """Adds mount attributes to a mount and all below it; those it has stay, which a remount would have to repeat."""
    wanted = struct.pack('=QQQQ', attributes, 0, 0, 0)
    call(
        'syscall', MOUNT_SETATTR, -100, target.encode(), AT_RECURSIVE if recursive else 0, wanted, len(wanted)
    )  # -100: AT_FDCWD


def place(path, folder):
    """Makes the empty folder or file that something is mounted on."""
    os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)
    if not folder and not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def build(spec):
    """Makes a root folder with what the spec lists, and nothing else, this process's root."""
    mount('none', '/', 'none', RECURSIVE | PRIVATE)
    base = '/proc'  # exists wherever this works; what lies below it is not needed any more
    mount('tmpfs', base, 'tmpfs', NOSUID | NODEV, 'size=64k,mode=755')
    os.mkdir(f'{base}/old')
    os.mkdir(f'{base}/new')
    call('syscall', PIVOT_ROOT, base.encode(), f'{base}/old'.encode())
    os.chdir('/')
    mount('tmpfs', '/new', 'tmpfs', NOSUID | NODEV, 'size=1m,nr_inodes=1024,mode=755')
    for folder, size, mode in (('dev', spec['dev_size'], 755), ('tmp', spec['disk'], 1777)):
        os.mkdir(f'/new/{folder}')
        options = f'size={size},nr_inodes={spec["inodes"]},mode={mode}'
        mount('tmpfs', f'/new/{folder}', 'tmpfs', NOSUID | NODEV, options)
    for source, target in spec['binds']:
        place(f'/new{target}', os.path.isdir(f'/old{source}'))
        mount(f'/old{source}', f'/new{target}', 'none', BIND | RECURSIVE)
        device = target.startswith('/dev/')
        restrict(f'/new{target}', NOSUID_ATTR if device else READ_ONLY_ATTR | NOSUID_ATTR | NODEV_ATTR)
    for path, target in spec['links']:
        os.symlink(target, f'/new{path}')
    for path in spec['hide']:
        mount('tmpfs', f'/new{path}', 'tmpfs', NOSUID | NODEV, 'size=4k,nr_inodes=2,mode=555')
        restrict(f'/new{path}', READ_ONLY_ATTR)
    os.chdir('/new')
    call('syscall', PIVOT_ROOT, b'.', b'.')  # the old root now lies on the new one, and is taken away
    call('umount2', b'.', DETACH)
    os.chdir('/tmp')
    restrict('/', READ_ONLY_ATTR, recursive=False)


def drop(uid):
    """Becomes `uid` for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (uid,) * 3 or os.getgroups():
        raise PermissionError(f'could not become user {uid}')
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PermissionError(f'user {uid} could become root again')


def give_up_capabilities():
    call('prctl', NO_NEW_PRIVS, 1, 0, 0, 0)
    call(
        'syscall', CAPSET, struct.pack('=II', 0x20080522, 0), bytes(24)
    )  # _LINUX_CAPABILITY_VERSION_3; none of any set


def limit(spec):
    """Limits of the process that calls it and of each of its children."""
    seconds = int(spec['cpu']) + 1
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_FSIZE: max(spec['disk'], spec['output']),
        resource.RLIMIT_NOFILE: spec['open_files'],
        resource.RLIMIT_NPROC: spec['tasks'],
        resource.RLIMIT_STACK: spec['stack'],
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_AS: spec['address_space'],
    }
    for which, value in wanted.items():
        if value is not None:
            soft, hard = value if isinstance(value, tuple) else (value, value)
            top = resource.getrlimit(which)[1]
            bound = hard if top == resource.RLIM_INFINITY else min(hard, top)
            resource.setrlimit(which, (min(soft, bound), bound))


def filter_calls(filters):
    """Installs the filter that `seccomp.py` made."""
    code = ctypes.create_string_buffer(filters, len(filters))
    fprog = struct.pack('HxxxxxxP', len(filters) // 8, ctypes.addressof(code))
    call('prctl', SECCOMP, 2, ctypes.create_string_buffer(fprog), 0, 0)
