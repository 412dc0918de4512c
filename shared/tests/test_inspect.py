"""What `inspect` counts."""

from unlabeled.core.cli.inspect import _tally


def test_flags_that_end_with_a_number_count_so_often() -> None:
    said = ["arp: 3", "acc_y: flat", "arp: 4", "acc_y: flat", "split at 12", "arp: many"]
    assert _tally(said) == {"acc_y: flat": 2, "arp": 7, "arp: many": 1, "split at 12": 1}
