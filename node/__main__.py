"""``python -m node`` is ``cluster node``."""

import sys

from cluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["node"]
    main()
