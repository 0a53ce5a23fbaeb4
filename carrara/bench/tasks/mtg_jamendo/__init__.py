"""The four tasks on MTG-Jamendo."""
