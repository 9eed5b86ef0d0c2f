"""``python -m mmsb`` is the command line."""

import sys

from mmsb.cli import main

if __name__ == "__main__":
    sys.exit(main())
