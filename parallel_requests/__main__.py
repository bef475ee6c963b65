"""``python -m parallel_requests``, in case the command is not on the path."""

import sys

from parallel_requests.cli import main

if __name__ == "__main__":
    sys.exit(main())
