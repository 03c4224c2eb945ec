"""Floor 3: OpenAI's Responses API on top of chat: items, response objects, event writer."""
