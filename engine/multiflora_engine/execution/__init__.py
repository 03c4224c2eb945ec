"""Floor 4: a scheduled batch on the device: batch building, model runner, decode graphs, memory sizing, warm-up."""
