"""Graphs and runs for people to read. PURE."""
