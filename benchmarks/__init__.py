"""Speed and memory side by side with peers; each program writes a table under reports/benchmarks/."""

import sys

sys.dont_write_bytecode = True  # as in stages/__init__.py
