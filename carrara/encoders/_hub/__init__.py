"""From a name to an encoder and back: load, import, export, and which encoders are available on this machine."""
