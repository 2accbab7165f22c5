"""How a stock Celery worker becomes ours: its bootsteps, consumer, strategy and remote control, and its leases."""
