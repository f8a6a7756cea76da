"""Speed and memory side by side with peers; each program writes a table under reports/benchmarks/."""
