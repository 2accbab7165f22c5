"""The models of this worker: loading them, keeping them in memory, what was learned of their batch times."""
