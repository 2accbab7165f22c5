"""Python functions that become graphs."""
