"""The explorer of `carrara explore`: a map of recordings in the browser, with sound."""
