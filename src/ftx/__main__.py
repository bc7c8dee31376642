"""``python -m ftx``: the command line."""

from ftx.cli.app import main

if __name__ == "__main__":
    main()
