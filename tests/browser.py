"""A real headless Chromium, driven by its DevTools protocol over two pipes: nothing to install but the browser."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='no chromium is installed')


class Page:
    """A tab. `errors` are what its scripts threw or logged as errors, and what its policy kept out."""

    def __init__(self, commands: int, replies: int):
        self._out, self._in = os.fdopen(commands, 'wb', 0), os.fdopen(replies, 'rb', 0)
        self._ids, self._session, self._held = itertools.count(1), None, b''
        self.errors: list[str] = []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **params):
        """A command's result. AssertionError: the browser refuses it."""
        number = next(self._ids)
        message = {'id': number, 'method': method, 'params': params} | (
            {'sessionId': self._session} if self._session else {}
        )
        self._out.write(json.dumps(message).encode() + b'\0')
        while True:
            reply = self._read()
            if reply.get('id') == number:
                assert 'error' not in reply, (method, reply['error'])
                return reply['result']
            self._note(reply)

    def _read(self):
        while b'\0' not in self._held:
            part = self._in.read(65536)
            assert part, 'the browser is gone'
            self._held += part
        message, _, self._held = self._held.partition(b'\0')
        return json.loads(message)

    def _note(self, event) -> None:
        params = event.get('params', {})
        if event['method'] == 'Runtime.exceptionThrown':
            self.errors.append(json.dumps(params['exceptionDetails']))
        elif event['method'] == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'assert'):
            self.errors.append(json.dumps(params['args']))
        elif event['method'] == 'Log.entryAdded' and params['entry']['level'] == 'error':
            self.errors.append(params['entry']['text'])

    # --- what a person does and sees

    def open(self, url: str) -> None:
        self.call('Page.navigate', url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression: str):
        """The value of an expression, which must be plain data."""
        got = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in got, got
        return got['result'].get('value')

    def until(self, expression: str, seconds: float = 60):
        """Waits until an expression is true, and returns it."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f'never: {expression}'
            time.sleep(0.02)
        return value

    def press(self, key: str, code: int, text: str = '', modifiers: int = 0) -> None:
        """A key; modifiers: 1 Alt, 2 Ctrl, 8 Shift."""
        common = {'key': key, 'windowsVirtualKeyCode': code, 'modifiers': modifiers}
        self.call('Input.dispatchKeyEvent', type='keyDown', text=text, **common)
        self.call('Input.dispatchKeyEvent', type='keyUp', **common)

    def type(self, text: str) -> None:
        self.call('Input.insertText', text=text)

    def scheme(self, name: str) -> None:
        """'light' or 'dark'."""
        self.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': name}])

    def size(self, width: int, height: int) -> None:
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self) -> bytes:
        """PNG of what is seen."""
        return base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])


@contextlib.contextmanager
def page():
    """A tab of a new browser."""
    to_browser, commands = os.pipe()
    replies, from_browser = os.pipe()
    profile = tempfile.mkdtemp()
    flags = [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--remote-debugging-pipe',
        '--no-first-run',
    ]

    def arrange():  # the browser reads from 3 and writes to 4
        a, b = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_browser, from_browser))
        os.dup2(a, 3)
        os.dup2(b, 4)

    process = subprocess.Popen(
        [CHROMIUM, *flags, f'--user-data-dir={profile}', 'about:blank'],
        preexec_fn=arrange, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(commands, replies)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)
