"""Celery's canvases: read as graphs, and written from them. PURE."""
