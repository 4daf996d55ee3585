"""Notice that this machine is about to be taken, where it comes before any signal, or instead of one.

Google's machines ask their metadata server: `instance/preempted` becomes TRUE some 30 s before a spot machine ends, and
`instance/maintenance-event` TERMINATE_ON_HOST_MAINTENANCE before a TPU's or GPU's host is maintained (a minute before, or up to an hour:
cloud.google.com/compute/docs/metadata/getting-live-migration-notice). The shutdown's own SIGTERM reaches services and containers, but not
a process that was started over ssh. What the server says already when a run starts is told and not acted on, so that a run that is started
again on the same machine works as long as there is one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import urllib.request
from collections.abc import Callable

EVENTS = {'instance/preempted': 'TRUE', 'instance/maintenance-event': 'TERMINATE_ON_HOST_MAINTENANCE'}
SECONDS = 5.0  # between two questions
_PRODUCT = '/sys/class/dmi/id/product_name'
_SILENT = OSError, http.client.HTTPException  # no answer, or none that is HTTP


def server() -> str | None:
    """The metadata server of a machine of Google's, or the one that GCE_METADATA_HOST names, as for Google's own clients."""
    if named := os.environ.get('GCE_METADATA_HOST'):
        return named
    with contextlib.suppress(OSError), open(_PRODUCT, encoding='utf-8') as file:
        if file.read().startswith('Google'):
            return 'metadata.google.internal'
    return None


class Watch:
    """Asks in `with`, every `SECONDS`. From a thread, `act` gets a sentence once, when an end is announced, and `say` one that was
    announced before. Without a server it does nothing.
    """

    def __init__(self, act: Callable[[str], None], say: Callable[[str], None]):
        self.act, self.say = act, say
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        if host := server():
            self._thread = threading.Thread(target=self._watch, args=(host,), name='notice', daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _watch(self, host: str) -> None:
        try:
            known = _told(host)
        except _SILENT:
            return  # nobody answers here
        for sentence in known:
            self.say(f'{sentence} since before this run; it goes on')
        while not self._over.wait(SECONDS):
            with contextlib.suppress(*_SILENT):
                if fresh := _told(host) - known:
                    self.act(', '.join(sorted(fresh)))
                    return


def _told(host: str) -> set[str]:
    """What the server says of an end. Raises one of `_SILENT` where it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine's own: no proxy knows it
    out = set()
    for path, word in EVENTS.items():
        asked = urllib.request.Request(
            f'http://{host}/computeMetadata/v1/{path}', headers={'Metadata-Flavor': 'Google'}
        )
        with opener.open(asked, timeout=2) as answer:
            if answer.read(100).decode().strip() == word:
                out.add(f'{path} is {word}')
    return out
