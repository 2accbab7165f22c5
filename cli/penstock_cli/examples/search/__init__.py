"""Semantic search over Python's own help texts: the job that ``penstock demo`` runs.

``model.py`` is all that a user writes to serve a model; ``minilm.py`` is the network, ``corpus.py`` the text,
``index.py`` finds the nearest passages.
"""
