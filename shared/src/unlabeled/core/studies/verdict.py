"""The verdict, a rule fixed before the numbers are.

At the smallest budget, two questions:

1. against random weights: ours frozen minus random weights frozen, the same linear head. Beside it, with its own word:
   both fine-tuned.
2. against the best simple baseline: ours joined with the simple features minus the best baseline. Beside it: ours alone.
   The best baseline is picked by its mean score in this very study, which favours the baselines.

Beside the verdict and no part of it: ours minus the off-the-shelf weights with the best mean score frozen, both frozen,
and both fine-tuned.

Each difference has a 95 % interval over groups and seeds:

    paid          the whole interval lies above 0
    did not pay   it does not, and ends below one point (0.01): a gain worth having is excluded
    cannot tell   otherwise
"""

from __future__ import annotations

from typing import Literal

from unlabeled.core.measures.intervals import Interval

MARGIN = 0.01

Word = Literal["paid", "did not pay", "cannot tell"]

RULE = (
    "paid: the whole 95 % interval of the difference lies above 0; did not pay: it does not, and its upper end lies "
    f"below {MARGIN:g}; cannot tell: otherwise. Fixed before the numbers: smallest budget; against random weights both "
    "frozen; against the baseline with the best mean score of this study (which favours the baselines) ours joined with "
    "the simple features."
)


def word(difference: Interval) -> Word:
    if difference.low > 0:
        return "paid"
    return "did not pay" if difference.high < MARGIN else "cannot tell"
