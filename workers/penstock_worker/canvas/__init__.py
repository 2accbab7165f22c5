"""What Celery's own messages need: canvas members and tasks of other programs keep Celery's semantics."""
