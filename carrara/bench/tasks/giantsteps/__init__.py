"""The row of GiantSteps."""
