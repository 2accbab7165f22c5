"""Pipelines: graphs of models and functions. Everything here is PURE; what runs them is elsewhere."""
