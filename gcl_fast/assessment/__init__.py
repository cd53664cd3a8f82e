"""Measures networks on the inputs of a run: embeddings, retrieval, novel views."""
