"""`python -m logqueue` is `logqueued`."""

import sys

from logqueue.daemon import main

sys.exit(main())
