"""What is claimed, what waits, and what leaves as a batch."""
