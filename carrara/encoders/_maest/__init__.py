"""The network of MAEST, its label names and its official files."""
