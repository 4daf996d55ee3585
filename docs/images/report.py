"""Takes the pictures of docs/report.md: writes the report of some workdirs and opens it in a headless Chromium.

    python docs/images/report.py WORKDIR [WORKDIR ...] [--stage NAME]

Needs a `chromium` on the path, and the tests' driver of it (tests/browser.py).
"""

import argparse
import pathlib
import sys
import tempfile

from r1jax import report

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / 'tests'))

import browser  # noqa: E402

TOP = 'scrollIntoView({block: "start"})'
READY = "document.querySelector('#count').textContent !== ''"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('workdirs', nargs='+')
    parser.add_argument('--stage', default='zero', help='whose self-evolution is shown')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser.page() as tab:
        page = report.compare(options.workdirs, f'{folder}/report.html')
        tab.scheme('light')
        tab.size(1160, 860)
        tab.open(f'file://{page}')
        tab.until(READY)
        stage = (
            f'[...document.querySelectorAll("#evolution h3")].find(e => e.textContent.startsWith("{options.stage} "))'
        )
        tab.js(f'{stage}.{TOP}')
        keep(tab, 'report_curves')
        tab.js(f"document.querySelector('#browser').{TOP}")
        tab.js("document.querySelector('#where').focus()")
        tab.type('format=0')
        tab.js("document.querySelector('#find').focus()")
        tab.type('mod')  # questions in English, for machines without other fonts
        tab.js("document.querySelector('#list').focus()")
        tab.press('ArrowDown', 40)
        keep(tab, 'report_samples')
        tab.scheme('dark')
        tab.js("document.querySelector('#where').focus(), document.querySelector('#where').select()")
        tab.type('accuracy=1')
        tab.js("document.querySelector('#find').focus(), document.querySelector('#find').select()")
        tab.type('mod wait')
        tab.press('Enter', 13, '\r')
        tab.press('t', 84, 't')
        keep(tab, 'report_dark')
        assert tab.errors == [], tab.errors


def keep(tab: browser.Page, name: str) -> None:
    (HERE / f'{name}.png').write_bytes(tab.picture())


if __name__ == '__main__':
    main()
