"""`unlabeled-earth`: the core's verbs for this domain."""


def main() -> None:
    from unlabeled.core.cli.domain import main as run

    run("earth")
