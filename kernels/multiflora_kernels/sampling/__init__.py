"""Floor 2: penalties, masks, top-k and top-p, drawing a token, log-probabilities."""
