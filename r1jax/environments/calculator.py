"""A calculator: arithmetic of numbers that are written out, exactly, in bounded time.

The policy's text is read by a grammar of its own; nothing is evaluated as code.

    sum      = product (('+' | '-') product)*
    product  = power (('*' | '/' | '//' | '%') power)*        × and ÷ too
    power    = ('+' | '-') power | atom (('**' | '^') power)?
    atom     = number | '(' sum ')'
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from r1jax.environments.tools import ToolError
from r1jax.types import Problem

LONGEST = 256  # characters of an expression
BITS = 4096  # of a number's numerator or denominator: about 1,200 digits
DEEPEST = 32  # parentheses, signs and powers inside each other
DIGITS = 12  # after which a fraction that does not end is cut
_TOKEN = re.compile(r'\s*(?:(\d+(?:\.\d*)?|\.\d+)|(\*\*|//|[-+*/%^()×÷−]))', re.ASCII)
_SAME = {'×': '*', '÷': '/', '−': '-', '^': '**'}


@dataclasses.dataclass(frozen=True)
class Calculator:
    """Computes an arithmetic expression, such as 12*(3+4)/5."""

    name: str = 'calculator'

    def __call__(self, problem: Problem, expression: str) -> str:
        return written(value(expression))


def value(expression: str) -> Fraction:
    """What an expression comes to.

    Raises:
      ToolError: it is none, divides by zero, or goes beyond a limit.
    """
    if len(expression) > LONGEST:
        raise ToolError(f'an expression has at most {LONGEST} characters')
    reading = _Reading(_tokens(expression))
    found = reading.sum(0)
    if reading.left:
        raise ToolError(f'{reading.left[0]} is not expected there')
    return found


def written(number: Fraction) -> str:
    """A number in decimal: whole numbers and fractions that end exactly, others to DIGITS digits behind the point."""
    whole, rest = divmod(abs(number), 1)
    sign = '-' if number < 0 else ''
    if not rest:
        return f'{sign}{whole}'
    digits = f'{round(abs(number) * 10**DIGITS):0{DIGITS + 1}d}'
    return f'{sign}{digits[:-DIGITS]}.{digits[-DIGITS:]}'.rstrip('0').rstrip('.')


def _tokens(expression: str) -> list[str]:
    found, at = [], 0
    expression = expression.strip()
    while at < len(expression):
        if not (match := _TOKEN.match(expression, at)):
            raise ToolError(f'{expression[at:].split()[0][:20]} is not arithmetic')
        found.append(_SAME.get(match[0].strip(), match[0].strip()))
        at = match.end()
    return found


class _Reading:
    """An expression that is read from its front."""

    def __init__(self, tokens: list[str]):
        self.left = tokens

    def take(self, *wanted: str) -> str | None:
        if self.left and self.left[0] in wanted:
            return self.left.pop(0)
        return None

    def sum(self, depth: int) -> Fraction:
        found = self.product(depth)
        while sign := self.take('+', '-'):
            other = self.product(depth)
            found = _bounded(found + other if sign == '+' else found - other)
        return found

    def product(self, depth: int) -> Fraction:
        found = self.power(depth)
        while sign := self.take('*', '/', '//', '%'):
            other = self.power(depth)
            if sign != '*' and not other:
                raise ToolError('division by zero')
            if sign == '*':
                found = found * other
            elif sign == '/':
                found = found / other
            else:
                found = Fraction(found // other) if sign == '//' else found % other
            _bounded(found)
        return found

    def power(self, depth: int) -> Fraction:
        if depth > DEEPEST:
            raise ToolError('this is nested too deeply')
        if sign := self.take('+', '-'):
            found = self.power(depth + 1)
            return -found if sign == '-' else found
        found = self.atom(depth)
        if self.take('**'):
            exponent = self.power(depth + 1)
            if exponent.denominator != 1:
                raise ToolError('an exponent is a whole number')
            if not found and exponent < 0:
                raise ToolError('division by zero')
            size = max(found.numerator.bit_length(), found.denominator.bit_length())
            if abs(exponent) * size > BITS:
                raise ToolError('this number is too large')
            found = found ** int(exponent)
        return found

    def atom(self, depth: int) -> Fraction:
        if self.take('('):
            found = self.sum(depth + 1)
            if not self.take(')'):
                raise ToolError('a parenthesis is not closed')
            return found
        if not self.left:
            raise ToolError('the expression ends too early')
        token = self.left.pop(0)
        if not (token[0].isdigit() or token[0] == '.'):
            raise ToolError(f'{token} is not expected there')
        return Fraction(token)


def _bounded(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > BITS:
        raise ToolError('this number is too large')
    return number
