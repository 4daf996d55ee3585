"""How fields of a command are said on the command line: the door to tyro."""

from __future__ import annotations

from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, UseAppendAction

__all__ = ['FlagCreatePairsOff', 'OmitArgPrefixes', 'Positional', 'Unsandboxed', 'UseAppendAction', 'arg', 'parse']

parse = tyro.cli


def arg(metavar: str, default: str = '', **kwargs):
    """What --help shows of a field: the name of its value, and the default in words where the value says nothing."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=default, **kwargs)


Unsandboxed = Annotated[bool, FlagCreatePairsOff]
