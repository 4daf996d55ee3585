"""What Python does inside a sandbox, and the plain data that crosses between two of them.

Of the standard library alone, in a fork of `jail.py`, by its arguments:

    script FILE ARGUMENTS   runs a program
    serve FILE SETUP        the model's side of function-call tests: runs its code, then answers calls
    check FILE SETUP NAME   the judge's side: runs the tests' code, whose function is a call to the other side

The two sides have a pipe to read from (3) and one to write to (4). A message is its length (4 bytes, big-endian) and JSON:
`[name, arguments]` asks, `['value', result, arguments or null]` and `['raised', type, text]` answer; `arguments` come back
where the call changed them. Nothing but data crosses, so what compares results never runs a line of the model's: no
`__eq__` of its own, no pickle, no frame to look into. A process that forges answers can do no more than return them.
"""

import _sitebuiltins
import builtins
import importlib
import json
import os
import signal
import struct
import sys
import types

LONGEST = 1 << 22  # bytes of a message
DEEPEST = 200  # levels of nesting
COMMON = (
    'bisect', 'collections', 'copy', 'datetime', 'fractions', 'functools', 'hashlib', 'heapq', 'io', 'itertools', 'math',
    'operator', 'random', 're', 'statistics', 'string', 'threading', 'traceback', 'typing',
)  # fmt: skip
PLAIN = (type(None), bool, float, str)


def encode(value, level=0):
    """Plain data as JSON's types. What is a list, dict, … by inheritance crosses as that list or dict.

    Raises:
      TypeError: not plain data.
      ValueError: nested too deeply.
    """
    kind = type(value)
    if level > DEEPEST:
        raise ValueError(f'data nested more than {DEEPEST} deep')
    if kind in PLAIN:
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else {'int': hex(value)}  # int(text) takes quadratic time
    inner = level + 1
    if isinstance(value, list):
        return [encode(v, inner) for v in list.__iter__(value)]
    if isinstance(value, tuple):
        return {'tuple': [encode(v, inner) for v in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {'dict': [[encode(k, inner), encode(v, inner)] for k, v in dict.items(value)]}
    if isinstance(value, (set, frozenset)):
        base = set if isinstance(value, set) else frozenset
        return {base.__name__: [encode(v, inner) for v in base.__iter__(value)]}
    if isinstance(value, (bytes, bytearray)):
        return {'bytes' if isinstance(value, bytes) else 'bytearray': bytes(value).hex()}
    for base in (int, float, str):  # enumerations and the like
        if isinstance(value, base):
            return encode(base.__add__(value, base()), inner)
    if kind is complex:
        return {'complex': [value.real, value.imag]}
    if kind is range:
        return {'range': [encode(v) for v in (value.start, value.stop, value.step)]}
    if hasattr(value, '__next__') or kind in (type({}.keys()), type({}.values()), type({}.items())):
        return {'iterator': [encode(v, inner) for v in value]}
    raise TypeError(f'{kind.__name__} is no plain data')


def decode(data):
    """The value that `encode` was given. Raises ValueError for what it never makes."""
    if isinstance(data, list):
        return [decode(v) for v in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError('not plain data')
    ((kind, inner),) = data.items()
    make = {
        'int': lambda: int(inner, 16),
        'tuple': lambda: tuple(decode(inner)),
        'dict': lambda: {decode(k): decode(v) for k, v in inner},
        'set': lambda: set(decode(inner)),
        'frozenset': lambda: frozenset(decode(inner)),
        'bytes': lambda: bytes.fromhex(inner),
        'bytearray': lambda: bytearray.fromhex(inner),
        'complex': lambda: complex(*inner),
        'range': lambda: range(*decode(inner)),
        'iterator': lambda: iter(decode(inner)),
    }
    if kind not in make:
        raise ValueError('not plain data')
    try:
        return make[kind]()
    except (TypeError, AttributeError) as error:
        raise ValueError(f'not plain data: {error}') from None


def pack(message):
    """The bytes of a message. Raises ValueError where it is too long."""
    body = json.dumps(message).encode()
    if len(body) > LONGEST:
        raise ValueError(f'{len(body)} bytes of data, more than {LONGEST}')
    return struct.pack('>I', len(body)) + body


def unpack(read, longest=LONGEST):
    """The next message, from `read(n) -> n bytes`. Raises EOFError at the end, ValueError for what is no message."""
    size = struct.unpack('>I', read(4))[0]
    if size > longest:
        raise ValueError(f'a message of {size} bytes, more than {longest}')
    try:
        return json.loads(read(size))
    except RecursionError:
        raise ValueError('data nested too deeply') from None


def send(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd):
    def read(size):
        pieces = []
        while size:
            piece = os.read(fd, min(size, 1 << 20))
            if not piece:
                raise EOFError('the other side is gone')
            pieces.append(piece)
            size -= len(piece)
        return b''.join(pieces)

    return unpack(read)


def copy_into(old, new):
    """Makes `old`, in place, what a call made of it: nested lists stay the objects that others hold."""
    if type(old) is type(new) is list:
        for i, item in enumerate(new):
            if i < len(old) and copy_into(old[i], item):
                new[i] = old[i]
        old[:] = new
    elif type(old) is type(new) is dict:
        for key, item in new.items():
            if key in old and copy_into(old[key], item):
                new[key] = old[key]
        old.clear()
        old.update(new)
    elif type(old) is type(new) is set:
        old.clear()
        old |= new
    elif type(old) is type(new) is bytearray:
        old[:] = new
    else:
        return False
    return True


def run(setup, source, name):
    """Runs a problem's public code and then the given code in one namespace, which is returned.

    Code that does not compile by itself may be the body that the public code, a prompt, lacks: then both are one text.
    """
    space = {'__name__': name, '__builtins__': builtins}
    try:
        code = compile(source, '<answer>', 'exec', dont_inherit=True)
    except (SyntaxError, ValueError):
        exec(compile(f'{setup}{source}\n', '<answer>', 'exec', dont_inherit=True), space)
        return space
    if setup:
        exec(compile(setup, '<prompt>', 'exec', dont_inherit=True), space)
    exec(code, space)
    return space


def find(space, name):
    """A function by name: the module's, or a method of its class Solution (LeetCode's form)."""
    if 'Solution' in space and hasattr(space['Solution'], name):
        return getattr(space['Solution'](), name)
    return space[name]


def serve(setup, source):
    """Runs the code and answers calls until there are no more."""
    space = run(setup, source, 'answer')
    while True:
        try:
            name, sent = receive(3)
        except EOFError:
            return
        try:
            arguments = decode(sent)
            result = encode(find(space, name)(*arguments))
            changed = encode(arguments)
            answer = pack(['value', result, None if changed == sent else changed])
        except BaseException as error:
            answer = pack(['raised', type(error).__name__, str(error)[:500]])
        send(4, answer)


def candidate(name):
    """A function that calls the model's."""

    def ask(*arguments):
        send(4, pack([name, encode(list(arguments))]))
        answer = receive(3)
        if answer[0] == 'value' and len(answer) == 3:
            result = decode(answer[1])
            if answer[2] is not None:
                copy_into(list(arguments), decode(answer[2]))
            return result
        if answer[0] != 'raised' or len(answer) != 3:
            raise ValueError('no answer')
        kind = getattr(builtins, str(answer[1]), None)
        tame = isinstance(kind, type) and issubclass(kind, Exception)
        # a StopIteration would end the test's own loop over cases, early and without a complaint
        if not tame or issubclass(kind, (StopIteration, StopAsyncIteration, AssertionError)):
            kind = RuntimeError
        try:
            raised = kind(str(answer[2]))
        except TypeError:  # UnicodeDecodeError wants more arguments
            raised = RuntimeError(f'{answer[1]}: {answer[2]}')
        raise raised

    return ask


def check(setup, source, name):
    """Runs tests against the model's function.

    Returns:
      0 where all hold, 1 where one does not, 3 where the tests themselves do not run.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a call to a process that is gone raises
    space = {'__name__': 'tests', '__builtins__': builtins}
    function = candidate(name)
    bare = 'def check(' not in source
    try:
        if setup:
            exec(compile(setup, '<prompt>', 'exec', dont_inherit=True), space)
        code = compile(source, '<tests>', 'exec', dont_inherit=True)
        if not bare:
            exec(code, space)
    except BaseException as error:
        sys.stderr.write(f'{type(error).__name__}: {error}')
        return 3
    space[name] = function
    try:
        if bare:
            exec(code, space)
        else:
            space['check'](function)
    except BaseException as error:
        sys.stderr.write(f'{type(error).__name__}: {error}')
        return 1
    return 0


def prepare():
    """Loads, once for all forks, what most programs need."""
    builtins.exit = _sitebuiltins.Quitter('exit', '')  # what site adds, which is not loaded for its start-up time
    builtins.quit = _sitebuiltins.Quitter('quit', '')
    for name in COMMON:
        importlib.import_module(name)


def script(path, *arguments):
    """Runs a program as python FILE would."""
    module = types.ModuleType('__main__')
    module.__file__ = path
    sys.modules['__main__'] = module
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.getcwd())
    exec(compile(text(path), path, 'exec', dont_inherit=True), module.__dict__)


def text(path):
    with open(path, encoding='utf-8', errors='replace', newline='') as file:
        return file.read()


def main():
    for fd, name in enumerate(
        ('stdin', 'stdout', 'stderr')
    ):  # anew: those of the process that was forked are in its state
        stream = os.fdopen(fd, 'w' if fd else 'r', encoding='utf-8', errors='surrogateescape', closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f'__{name}__', stream)
    side, file, *rest = sys.argv[1:]
    if side == 'script':
        script(file, *rest)
    elif side == 'serve':
        serve(text(rest[0]), text(file))
    else:
        status = check(text(rest[0]), text(file), rest[1])
        sys.stderr.flush()
        os._exit(status)
