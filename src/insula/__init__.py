"""Insula: a WebAssembly application server."""
