"""The network of MusicFM and MuQ."""
