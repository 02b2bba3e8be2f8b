"""The commit and its tests: what there is to run, what was reported, what it is worth."""
