"""Notice that the machine will be taken: a metadata server of our own, and what a run makes of it."""

import http.server
import os
import signal
import threading
import time

import pytest

from r1jax.train import interrupt, notice


class Answers(dict):
    asked = 0

    def wait(self):
        while self.asked < len(notice.EVENTS):
            time.sleep(0.01)


@pytest.fixture
def answers(monkeypatch):
    """What the machine's metadata server says, by path."""
    said = Answers({path: 'NONE' if 'maintenance' in path else 'FALSE' for path in notice.EVENTS})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            value = said.get(self.path.removeprefix('/computeMetadata/v1/'))
            self.send_response(200 if value and self.headers['Metadata-Flavor'] == 'Google' else 403)
            self.end_headers()
            self.wfile.write((value or '').encode())
            said.asked += 1

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv('GCE_METADATA_HOST', f'127.0.0.1:{server.server_port}')
        monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')  # which does not know the machine's own server
        monkeypatch.setattr(notice, 'SECONDS', 0.02)
        yield said
        server.shutdown()


@pytest.mark.parametrize('path', notice.EVENTS)
def test_a_notice_leaves_at_once_and_the_signal_that_it_announced_is_no_second(answers, capfd, path):
    with interrupt.Signals() as signals:
        with pytest.raises(interrupt.Interrupted) as left, signals.at_once():
            answers.wait()
            answers[path] = notice.EVENTS[path]
            time.sleep(10)
        assert left.value.code == 128 + signal.SIGTERM and signals.agreed() == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # handled: the state is being saved
    assert f'r1jax: {path} is {notice.EVENTS[path]}: the state is being saved' in capfd.readouterr().err


def test_what_was_known_before_is_told_and_the_run_goes_on(answers, capfd):
    answers['instance/maintenance-event'] = 'TERMINATE_ON_HOST_MAINTENANCE'
    with interrupt.Signals() as signals:
        with signals.at_once():
            answers.wait()
            time.sleep(0.2)
        assert signals.agreed() is None
        answers['instance/preempted'] = 'TRUE'
        with pytest.raises(interrupt.Interrupted), signals.at_once():
            time.sleep(10)
    said = capfd.readouterr().err.splitlines()
    assert 'instance/maintenance-event is TERMINATE_ON_HOST_MAINTENANCE since before this run; it goes on' in said[0]
    assert said[1:] == ['r1jax: instance/preempted is TRUE: the state is being saved']


def test_nobody_is_asked_on_another_machine_and_a_server_that_is_gone_costs_nothing(monkeypatch):
    monkeypatch.delenv('GCE_METADATA_HOST', raising=False)
    monkeypatch.setattr(notice, '_PRODUCT', os.devnull)
    assert notice.server() is None
    monkeypatch.setenv('GCE_METADATA_HOST', '127.0.0.1:9')
    with notice.Watch(pytest.fail, pytest.fail) as watch:
        watch._thread.join(10)
        assert not watch._thread.is_alive()


def test_a_machine_of_google_is_known_by_its_board(monkeypatch, tmp_path):
    monkeypatch.delenv('GCE_METADATA_HOST', raising=False)
    (tmp_path / 'product_name').write_text('Google Compute Engine\n')
    monkeypatch.setattr(notice, '_PRODUCT', str(tmp_path / 'product_name'))
    assert notice.server() == 'metadata.google.internal'
