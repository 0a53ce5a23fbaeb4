"""The command line: one public file per command, whose function has the file's name."""
