"""Floor 2: several engines as one: which one gets a request, what all of them are told, what they say together."""
