r"""Worked examples for few-shot prompts: long chains of thought that check themselves, in R1-Zero's layout.

Written for r1jax; DeepSeek's were not published. What they show is a way to work, so their questions are easy ones. No benchmark has them.
"""

from r1jax.types import Example

REFLECTING = (
    Example(
        'A shop sells pens at 3 for $4. How many dollars do 18 pens cost',
        r""" <think> The price is given for 3 pens at a time, so first I need how many such groups there are in 18 pens.

18 / 3 = 6 groups. Each group costs $4.

6 * 4 = 24, so 18 pens should cost $24.

Wait, let me check this another way. One pen costs 4/3 dollars, and 18 * 4/3 = 72/3 = 24. Both ways agree.

Is there a smaller leftover group to pay for? 18 is a multiple of 3, so no pens are left over. </think> <answer> \boxed{24} </answer>""",
    ),
    Example(
        'How many integers between 1 and 100, both included, are divisible by 2 or by 5',
        r""" <think> I count the multiples of each number, and then think about those that I count twice.

Multiples of 2 up to 100: 100 / 2 = 50. Multiples of 5 up to 100: 100 / 5 = 20.

That would be 50 + 20 = 70. Wait, that is too many: 10, for example, is a multiple of both, and I counted it twice.

The numbers that are counted twice are the multiples of 10, and there are 100 / 10 = 10 of them. So 70 - 10 = 60.

Let me check with a smaller case, 1 to 10: the multiples are 2, 4, 5, 6, 8, 10, which are 6. By the formula: 5 + 2 - 1 = 6. That agrees, and
100 is ten times as many: 60. </think> <answer> \boxed{60} </answer>""",
    ),
)
