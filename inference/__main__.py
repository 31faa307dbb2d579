"""`python -m inference COMMAND`: see `inference.commands.main`."""

import sys

from inference.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
