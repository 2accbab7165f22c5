"""Pipelines: graphs of models and functions. Everything here is PURE; what runs them is elsewhere.

``writing`` makes graphs of Python functions, ``canvas`` of Celery's canvases, ``comfyui`` of a visual editor's;
``shapes`` says whether their steps fit; ``show`` draws them.
"""
