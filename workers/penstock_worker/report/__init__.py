"""What others are told: clients, Celery's monitors, admission, the log."""
