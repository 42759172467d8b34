"""Ratios measured side by side in one run: the server beside what a user would write by hand."""
