"""Processes that are kept running on this machine, and what they have agreed on with whoever started them."""
