"""`python -m activestore`: the command line."""

from __future__ import annotations

import sys

from activestore.cli import main

if __name__ == "__main__":
    sys.exit(main())
