"""What is compared with what, and which word a difference gets: fixed before the runs."""

from __future__ import annotations

from continued.regimes import COSINE_FIRST, INFINITE_BOTH, INFINITE_FIRST, MIXED, RANDOM, REPEATED, SCRATCH
from continued.sets import FIRST, SECOND
from unlabeled.core.studies.verdict import MARGIN

# (a, b, the set whose test it is): a minus b
QUESTIONS = (
    ("what is kept of the first set", INFINITE_BOTH, REPEATED, FIRST),
    ("what is learned of the second", INFINITE_BOTH, REPEATED, SECOND),
)
BESIDE = (
    ("kept, against the first set alone", INFINITE_BOTH, COSINE_FIRST, FIRST),
    ("kept, against the first set alone", REPEATED, COSINE_FIRST, FIRST),
    ("kept, against its own state after the first set", INFINITE_BOTH, INFINITE_FIRST, FIRST),
    ("the schedule alone, before the second set", INFINITE_FIRST, COSINE_FIRST, FIRST),
    ("what the first set left", INFINITE_BOTH, SCRATCH, FIRST),
    ("what the first set left", REPEATED, SCRATCH, FIRST),
    ("learned, against from scratch", INFINITE_BOTH, SCRATCH, SECOND),
    ("learned, against from scratch", REPEATED, SCRATCH, SECOND),
    ("against the upper reference", INFINITE_BOTH, MIXED, FIRST),
    ("against the upper reference", REPEATED, MIXED, FIRST),
    ("against the upper reference", INFINITE_BOTH, MIXED, SECOND),
    ("against the upper reference", REPEATED, MIXED, SECOND),
    ("against random weights", INFINITE_BOTH, RANDOM, FIRST),
    ("against random weights", REPEATED, RANDOM, FIRST),
    ("against random weights", INFINITE_BOTH, RANDOM, SECOND),
    ("against random weights", REPEATED, RANDOM, SECOND),
)
RULE = (
    "Of a difference a minus b, both probes frozen: paid: the whole 95 % interval lies above 0; did not pay: it does not, and "
    f"its upper end lies below {MARGIN:g}; cannot tell: otherwise. Two questions for each method, infinite minus repeated "
    "cosine on either set; the other differences stand beside them. Fixed before the runs."
)
