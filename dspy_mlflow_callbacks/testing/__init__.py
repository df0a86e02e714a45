"""What this package tests with, for your tests too: see the fixture `dspy_traces` in `plugin`."""
