"""What the routes of insight answer. Times are Unix seconds, durations seconds, sizes bytes."""
