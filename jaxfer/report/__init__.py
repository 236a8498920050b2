"""Tables and figures: what a run or a study shows of itself."""
