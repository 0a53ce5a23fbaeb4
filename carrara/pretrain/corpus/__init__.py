"""The corpus: folders, manifests and tar shards as one table of sounds; crops by seeking, and labels beside them."""
