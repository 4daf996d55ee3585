# Installs r1jax where it is missing, as on Colab. Where it is installed this cell only looks where its experiments are.
import importlib.util
import pathlib
import subprocess
import sys

ADDRESS = 'https://github.com/r1jax/r1jax'
spec = importlib.util.find_spec('r1jax')
ROOT = pathlib.Path(spec.origin).parents[1] if spec and spec.origin else pathlib.Path('r1jax-checkout').resolve()
if not (ROOT / 'experiments').is_dir():
    ROOT = pathlib.Path('r1jax-checkout').resolve()
    if not ROOT.is_dir():
        subprocess.run(['git', 'clone', '-q', '--depth', '1', ADDRESS, str(ROOT)], check=True)
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', f'{ROOT}[notebooks,math,data]'], check=True)
    sys.path.insert(0, str(ROOT))

from r1jax import runtime

runtime.configure()  # keeps what jax compiles for the next time
