"""`python -m r1jax` is the `r1jax` command."""

import sys

from r1jax.cli import main

sys.exit(main())
