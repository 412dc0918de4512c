"""`unlabeled-network`: the core's verbs for this domain, and its own."""


def main() -> None:
    from unlabeled.core.cli.domain import main as run

    run("network")
