"""The functional train step, and the loop around it."""
