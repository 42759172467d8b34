"""`python -m insula`, and the `insula` command: the command line, whose import takes a moment that may be interrupted."""

import sys

from insula.interpreter import importing


def run() -> int:
    """Runs the command line of this process; its exit code."""
    try:
        with importing():
            from insula.cli.main import main
    except KeyboardInterrupt:
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
