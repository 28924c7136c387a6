"""`python -m rmt_rl.zoo`."""

import sys

from rmt_rl.zoo import main

if __name__ == "__main__":
    sys.exit(main())
