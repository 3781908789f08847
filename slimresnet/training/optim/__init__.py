"""Optimisers and the schedule of the learning rate. When a step is taken is the loop's matter."""
