"""Step-wise models: sequences that join and leave between the steps of a batch."""
