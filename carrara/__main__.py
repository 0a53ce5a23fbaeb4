"""`python -m carrara`."""

from carrara.app.cli import main

if __name__ == "__main__":
    main()
