"""Where workers run. ``base`` is the contract; one module for each place."""
