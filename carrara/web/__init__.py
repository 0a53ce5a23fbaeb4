"""What browsers and programs reach over HTTP: the embedding service, the explorer, leaderboards that take records."""
