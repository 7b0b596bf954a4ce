"""``python -m ldc``: the same as the command ``ldc``."""

import sys

from ldc.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
