"""Traces in a store: searched page by page, read as facts, written to files and brought back."""
