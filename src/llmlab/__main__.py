"""`python -m llmlab` is the command line."""

import sys

from llmlab.cli import main

sys.exit(main())
