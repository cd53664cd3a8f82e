"""Measures networks on the inputs of a run: their embeddings, retrieval and novel views."""
