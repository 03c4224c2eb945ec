"""What LLM is made of: its step loop, the runs of its requests, and what only it gives out."""
