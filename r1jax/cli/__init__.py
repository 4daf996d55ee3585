"""The `r1jax` command.

    r1jax run EXPERIMENT            from a recipe to a workdir: trains, evaluates, resumes
    r1jax export CHECKPOINT DIR     writes a Hugging Face folder, or with --adapter one for PEFT
    r1jax report WORKDIR...         writes a workdir's report.html anew, or one page of several runs
    r1jax diagnose WORKDIR          says why a run does not learn, or why not to believe that it does
    r1jax grade FILE                grades a file of problems with completions
    r1jax new NAME                  writes a small experiment with a reward of its own, and its test
    r1jax doctor                    says what this machine gives to a run, and what to do where something is in the way
    r1jax plan EXPERIMENT           what it would need of chips that need not be here
    r1jax eval CHECKPOINT           measures a checkpoint by benchmarks, beside the paper's figures
    r1jax serve CHECKPOINT          an OpenAI-compatible server, with a page
    r1jax chat CHECKPOINT           a conversation in the terminal

Exit status 0 is success, 2 bad input (a line says what is wrong), 1 a failure on the way (with a line that says what
to do, or with its traceback; the state is kept) and 130 an interrupt. What needs jax is imported only once a command
runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import r1jax
from r1jax import runtime
from r1jax.cli.arguments import parse
from r1jax.cli.checkpoints import Chat, Eval, Export, Serve
from r1jax.cli.experiments import New, Plan, Run
from r1jax.cli.records import Diagnose, Doctor, Grade, Report


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's) and returns its exit status; a usage error exits with 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv == ['--version']:
        print(f'r1jax {r1jax.__version__}')
        return 0
    about = f'{r1jax.__doc__} This is version {r1jax.__version__}, as --version says.'
    commands = Run | Eval | Serve | Chat | Export | Report | Diagnose | Grade | Plan | New | Doctor
    command = parse(commands, prog='r1jax', description=about, args=argv)

    runtime.configure()
    from r1jax import distributed
    from r1jax.settings import BadInput, Failed

    try:
        command()
    except KeyboardInterrupt:
        print('\n' + '; '.join(filter(None, ('r1jax: interrupted', command.afterwards))), file=sys.stderr)
        status, why = 130, 'was interrupted'
    except BadInput as error:
        print(f'r1jax: error: {error}', file=sys.stderr)
        status, why = 2, f'found: {error}'
    except Failed as error:
        print(f'r1jax: failed: {"; ".join(filter(None, (str(error), command.afterwards)))}', file=sys.stderr)
        status, why = 1, f'failed: {error}'
    except Exception as error:
        traceback.print_exc()
        who = ' '.join(filter(None, ('r1jax:', distributed.name(), 'failed')))
        print('; '.join(filter(None, (who, distributed.blame(error), command.afterwards))), file=sys.stderr)
        status, why = 1, f'failed:\n{traceback.format_exc()}'
    else:
        return 0
    distributed.fail(why, status)
    return status
