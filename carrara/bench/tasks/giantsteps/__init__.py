"""The task on GiantSteps."""
