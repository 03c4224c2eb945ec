"""Steps as graphs: when they are captured and replayed, and what they read."""
