"""The parts that Pebble is made of: what can be composed, how it is played, and how it becomes files."""
