"""The training corpus: folders, manifests and tar shards as one table of items, random crops of them, stored labels."""
