"""The library: pure functions and small dataclasses; it never reads argv, cwd or params.yaml by itself."""
