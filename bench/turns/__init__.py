"""The longest turn of the server's event loop under loads that are meant to hold it, and the latency of a neighbour.

`python -m bench.turns` (`--help` has the rest). How a turn is measured: server.py. The loads: one file a kind.
"""
