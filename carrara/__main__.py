"""The command `carrara`, and `python -m carrara`: signals come first, so that they end the imports in one line."""

from carrara.core.interrupts import watch_signals


def main() -> None:
    """Run the command line and exit with its code."""
    watch_signals()
    from carrara.cli._main import main as run

    run()


if __name__ == "__main__":
    main()
