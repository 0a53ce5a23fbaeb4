"""The four rows of MTG-Jamendo."""
