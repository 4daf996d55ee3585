"""Writes the plans anew, one after the other, and the table of this folder's README.

    pip install -e '.[tpu]'
    python docs/plans/make.py [NAME ...]

A plan is what its command prints; what it took to make is measured here.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
COMMANDS = {
    'zero_qwen_1_5b_lora_v5e_1': 'experiments/zero_qwen_1_5b_lora.py --topology v5e:1x1',
    'zero_qwen_7b_v5e_16': 'experiments/zero_qwen_7b.py --topology v5e:4x4 --search 2',
    'zero_qwen_7b_v5p_4': 'experiments/zero_qwen_7b.py --topology v5p:2x2x1 --search 2',
    'zero_qwen_32b_v5p_32': 'experiments/zero_qwen_32b.py --topology v5p:2x4x4 --search 2',
    'r1_671b_v5p_512': 'experiments/r1_671b.py --topology v5p:8x8x8 --stage reasoning_rl --search 1',
}


def main() -> None:
    for name in sys.argv[1:] or COMMANDS:
        start = time.monotonic()
        command = [sys.executable, '-m', 'r1jax', 'plan', *shlex.split(COMMANDS[name])]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1])
        said = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if not said.startswith('# '):  # a plan that does not fit ends with 1, and so does one that failed
            sys.exit(f'{name}: no plan, exit status {child.returncode}')
        peak = used.ru_maxrss * 1024 / 1e9
        took = f'made in {(time.monotonic() - start) / 60:.1f} minutes, with at most {peak:.1f} GB of memory'
        text = f'```sh\n# not run: {took}\nr1jax plan {COMMANDS[name]}\n```\n\n{said}'
        (HERE / f'{name}.md').write_text(text, encoding='utf-8')
    readme = HERE / 'README.md'
    kept = readme.read_text(encoding='utf-8').partition('\n| plan |')[0].rstrip() + '\n'
    rows = ['| plan | command | fits |', '|---|---|---|']
    for name, command in COMMANDS.items():
        if (path := HERE / f'{name}.md').exists():
            said = re.search(r'^# .*: (.*)$', path.read_text(encoding='utf-8'), re.MULTILINE)[1]
            rows.append(f'| [{name}]({name}.md) | `r1jax plan {command}` | {said} |')
    readme.write_text(kept + '\n' + '\n'.join(rows) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
