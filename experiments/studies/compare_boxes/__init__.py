"""Published algorithms for boxes, and ours, on one complete oracle."""
