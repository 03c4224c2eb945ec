"""Floor 1: the bodies of /v1, requests and answers, and how they are decoded."""
