"""Errors: one sentence each (what, where, how to mend) and one exit code each."""


class UnlabeledError(Exception):
    """Base of every error shown to a user without a traceback."""

    exit_code = 1


class RunFailed(UnlabeledError):
    """The run itself failed: a health alarm, non-finite values, a broken checkpoint."""

    exit_code = 1


class RequestError(UnlabeledError):
    """The request is wrong, or there is no data."""

    exit_code = 2


class BadInput(UnlabeledError):
    """One item cannot be used. Caught, named, counted and quarantined; it ends a run only as `TooManyBad`."""

    exit_code = 3


class TooManyBad(UnlabeledError):
    """More items are bad than the recipe allows."""

    exit_code = 3


class Leakage(UnlabeledError):
    """Groups are shared where they must not be."""

    exit_code = 4


class Incompatible(UnlabeledError):
    """A bundle and an input, or a bundle and this code, do not fit."""

    exit_code = 5


class Absent(UnlabeledError):
    """Weights that are named but cannot be had on this machine."""

    exit_code = 2
