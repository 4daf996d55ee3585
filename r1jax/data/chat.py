"""Chat templates, which are programs of strangers: the only door to Jinja.

In: the Jinja source that comes with a tokenizer, and the conversation as plain data. Out: the text that the model reads.

A template is downloaded with weights, and Jinja's sandbox alone bounds neither time nor memory: two nested loops run for
hours, one multiplication of a string fills the machine, and neither can be stopped inside Python. So templates run in a
process of their own, which starts at the first use (about 0.1 s), is kept, and is killed at a limit. It gets data as
JSON, so that no object of ours has methods there; of our environment what Python needs to start; and after its start no further file
or socket can be opened. One hostile template costs one process; the next call starts another.

Where the system has no `resource` (Windows) there is no limit on memory, and the clock of the wall is the one on time.

This file is also the program of that process: run as a script it imports Jinja and nothing of r1jax.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

LONGEST = 256 * 1024  # characters of a template; those of released models have up to 20 thousand
OUTPUT = 16 * 1024 * 1024  # characters of a rendered conversation
MEMORY = 512 * 1024 * 1024  # bytes of address space
SECONDS = 2  # of processor time a conversation
WALL = 60.0  # seconds on the clock: what is left to stop if processor time does not count, as in a stopped process


class ChatTemplateError(ValueError):
    """A template that cannot be used for these messages, or at all."""


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The text of a template.

    Args:
      template: Jinja source.
      variables: what it sees, plain data: text, numbers, None, lists and mappings with text as keys. Besides, as in
        transformers: `raise_exception(text)`, `strftime_now(format)`, the filter `tojson`, `{% generation %}`.

    Raises:
      ChatTemplateError: the template is too long, is no Jinja, rejects the variables, asks for what the sandbox denies,
        or passes a limit on time, memory or output.
    """
    if len(template) > LONGEST:
        raise ChatTemplateError(f'it has {len(template):,} characters, and templates of up to {LONGEST:,} are run')
    try:
        request = json.dumps({'template': template, 'variables': variables}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ChatTemplateError(f'the messages must be plain data, as in JSON: {error}') from error
    with _lock:
        reply = _worker().ask(request)
    if 'text' in reply:
        return reply['text']
    raise ChatTemplateError(reply['error'])


class _Worker:
    """The process that runs templates."""

    def __init__(self):
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        command = [sys.executable, '-P', __file__]  # -P: our neighbours here are not to be imported as `datasets`
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=kept)
        self.pid = os.getpid()
        ready = self._answer(b'')
        if 'ready' not in ready:
            self.stop()
            raise RuntimeError(f'the process that runs chat templates did not start: {ready.get("error")}')

    @property
    def usable(self) -> bool:
        """Not ended, and not the parent's of a fork, which reads from the same pipe."""
        return self.pid == os.getpid() and self.process.poll() is None

    def ask(self, request: str) -> dict[str, Any]:
        reply = self._answer(request.encode() + b'\n')
        if reply.get('last'):
            self.stop()
        return reply

    def _answer(self, request: bytes) -> dict[str, Any]:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.process.kill()

        alarm = threading.Timer(WALL, stop)
        alarm.daemon = True
        alarm.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(request)
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            alarm.cancel()
        if line.endswith(b'\n'):
            return json.loads(line)
        code = self.process.wait()
        self.stop()
        if late.is_set():
            return {'error': f'it ran for more than {WALL:.0f} s'}
        if code == -_SIGXCPU:
            return {'error': f'it took more than {SECONDS} s of processor time'}
        return {'error': f'its process ended with status {code}'}

    def stop(self) -> None:
        if self.pid != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


_ENVIRONMENT = ('PATH', 'PYTHONPATH', 'PYTHONHOME', 'LD_LIBRARY_PATH', 'DYLD_LIBRARY_PATH', 'SYSTEMROOT', 'TZ')
_SIGXCPU = 24  # on Linux and macOS; Windows has none
_lock = threading.Lock()
_running: _Worker | None = None


def _worker() -> _Worker:
    global _running
    if _running is None or not _running.usable:
        _running = _Worker()
    return _running


@atexit.register
def _stop() -> None:
    if _running is not None and _running.usable:
        _running.stop()


# --- the other process


def _environment():
    """Jinja with the settings that chat templates are written for: those of transformers' apply_chat_template."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}…{% endgeneration %}` marks what a model wrote; here it changes nothing."""

        tags = {'generation'}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        """Jinja's own escapes for HTML, which no prompt is."""
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    for late in ('pprint', 'textwrap', 'jinja2.constants'):  # filters import them when called: too late without files
        importlib.import_module(late)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols], cache_size=0
    )
    environment.globals['raise_exception'] = raise_exception
    environment.globals['strftime_now'] = lambda form: datetime.datetime.now().strftime(form)
    environment.filters['tojson'] = tojson
    return environment


def _confine(limits: Any) -> None:
    """Memory for good, and no more files, sockets or children (root is exempt from the last)."""
    wanted = {'RLIMIT_AS': MEMORY, 'RLIMIT_CORE': 0, 'RLIMIT_FSIZE': 0, 'RLIMIT_NPROC': 0, 'RLIMIT_NOFILE': 0}
    for name, value in wanted.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # macOS knows some and refuses others
            limits.setrlimit(getattr(limits, name), (value, value))


def _reply(request: bytes, environment: Any, compiled: dict[str, Any], error_class: type) -> dict[str, Any]:
    try:
        asked = json.loads(request)
        source = asked['template']
        if source not in compiled:
            if len(compiled) == 8:
                compiled.pop(next(iter(compiled)))
            compiled[source] = environment.from_string(source)
        text = compiled[source].render(asked['variables'])
    except MemoryError:
        return {'error': f'it needs more than {MEMORY // 1024**2} MiB of memory', 'last': True}
    except RecursionError:
        return {'error': 'it calls itself without an end'}
    except Exception as error:
        line = f'line {number}: ' if (number := getattr(error, 'lineno', None)) else ''
        name = '' if isinstance(error, error_class) else f'{type(error).__name__}: '
        return {'error': f'{line}{name}{error}'[:500]}
    if len(text) > OUTPUT:
        return {'error': f'it writes {len(text):,} characters, more than {OUTPUT:,}', 'last': True}
    return {'text': text}


def _serve() -> None:
    """Answers requests, one a line, until there are none."""
    environment = _environment()
    from jinja2 import TemplateError

    # what is imported or read at a first use has to be before files are denied; errors read more than what succeeds
    for source in (
        '{{ strftime_now("%d %b %Y %Z") }}{{ x|tojson }}{{ lipsum(1) }}',
        '{{ x.y.z }}',
        '{% if',
        '{{ 1/0 }}',
    ):
        _reply(json.dumps({'template': source, 'variables': {'x': 1}}).encode(), environment, {}, TemplateError)
    try:
        import resource
    except ImportError:
        resource = None
    else:
        _confine(resource)
    print(json.dumps({'ready': True}), flush=True)
    compiled: dict[str, Any] = {}
    for request in sys.stdin.buffer:
        if resource:
            stop = int(time.process_time()) + 1 + SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (stop, resource.RLIM_INFINITY))
        try:
            line = json.dumps(reply := _reply(request, environment, compiled, TemplateError))
        except MemoryError:  # the text fits, and its spelling as JSON does not
            line = json.dumps(reply := {'error': f'it needs more than {MEMORY // 1024**2} MiB of memory', 'last': True})
        print(line, flush=True)
        if reply.get('last'):
            return


if __name__ == '__main__':
    _serve()
