"""`python -m egup_trainer` is the command `egup`."""

import sys

from egup_trainer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
