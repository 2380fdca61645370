"""`lowprec` and `python -m lowprec`."""

import sys

from lowprec.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
