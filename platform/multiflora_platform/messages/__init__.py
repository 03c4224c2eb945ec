"""Floor 3: what is inside an assistant's text (reasoning, content, tool calls), read as it comes."""
