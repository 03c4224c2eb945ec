"""Floor 3: speculation by prompt lookup: which tokens a sequence repeats, and when it pays to draft them."""
