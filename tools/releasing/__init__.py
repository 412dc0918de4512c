"""What every wheel is asked before it may leave the house."""


class Fault(Exception):
    """One sentence: what is wrong with which wheel, and how to mend it."""
