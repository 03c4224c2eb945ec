"""What an operator should look at now: found, remembered since when, told as events."""
