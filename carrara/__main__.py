"""`python -m carrara`."""

from carrara.cli._main import main

if __name__ == "__main__":
    main()
