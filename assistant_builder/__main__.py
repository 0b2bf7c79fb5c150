"""``python -m assistant_builder``: the command line."""

from assistant_builder.cli import main

if __name__ == "__main__":
    main()
