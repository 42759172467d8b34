"""`python -m insula` is the command line."""

import sys

from insula.cli.main import main

sys.exit(main())
