# SPDX-License-Identifier: Apache-2.0
"""``python -m ndverbs``."""

import sys

from ndverbs.cli import main

if __name__ == "__main__":
    sys.exit(main())
