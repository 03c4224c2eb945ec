"""Floor 3: Anthropic's Messages API on top of chat: conversations, tools, content blocks, event writer."""
