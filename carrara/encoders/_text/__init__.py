"""What encoders with a text tower share."""
