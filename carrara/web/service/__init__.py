"""The service of `carrara serve`: embeddings, tags and similar recordings over HTTP."""
