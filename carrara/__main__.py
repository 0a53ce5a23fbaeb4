"""The command `carrara`, and `python -m carrara`: signals come first, so that they end the imports in one line."""

import atexit
import gc

from carrara.core.interrupts import watch_signals


def main() -> None:
    """Run the command line and exit with its code."""
    watch_signals()
    # Else Python looks through all objects of torch for garbage before it ends, which takes a second.
    atexit.register(gc.freeze)
    from carrara.cli._main import main as run

    run()


if __name__ == "__main__":
    main()
