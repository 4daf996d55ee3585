"""What the policy can talk to: tools (`Tools` with `Calculator`, `Python`, `Search`), a user (`Dialogue`), a second chance (`Retry`),
environments of others (`adapters`).

Everything here runs in the processes that grade, and imports no jax. docs/environments.md says how to write one.
"""

from r1jax.environments.calculator import Calculator
from r1jax.environments.dialogue import Dialogue
from r1jax.environments.python import Python
from r1jax.environments.retry import Retry
from r1jax.environments.search import Search
from r1jax.environments.tools import Tool, ToolError, Tools

__all__ = ['Calculator', 'Dialogue', 'Python', 'Retry', 'Search', 'Tool', 'ToolError', 'Tools']
